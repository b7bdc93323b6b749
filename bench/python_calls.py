"""What a call from Python takes, in us, beside the same call from C++: one rank, 1 x 64 elements.

Run: build/python-env/bin/python bench/python_calls.py [--runs N] [--json FILE]. With PyTorch's rows where
it is installed, and those of CUDA where there is a GPU. The C++ column comes from build/bench/host_calls
(--cpp PATH), where it was built. Where a process lands on a machine changes its calls by half, so of --runs,
each in a process of its own, the best one counts, in both columns. On CUDA a call is over when it is on the
stream. One rank alone copies; with row counts in device memory it runs a kernel, which has rows of its own.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mixcomm

CALLS_PER_GRAPH = 50  # as in host_calls.cpp
LAUNCHES = 100


def best_us(
    call: Callable[[], object],
    times: int = 10_000,
    rounds: int = 9,
    settle: Callable[[], object] = lambda: None,
) -> float:
    """Of several rounds, the time per call in the best one; ``settle()`` comes before each, untimed."""
    best = float("inf")
    for _ in range(rounds):
        settle()
        start = time.perf_counter()
        for _ in range(times):
            call()
        best = min(best, (time.perf_counter() - start) / times)
    return best * 1e6


def numpy_rows(communicator: mixcomm.Communicator) -> dict[str, Callable[[], object]]:
    """The methods, on numpy arrays."""
    x = np.ones((1, 64), np.float32)
    out = np.empty_like(x)
    run = communicator.all_reduce_all_gather
    return {"numpy, out=": lambda: run(x, out=out), "numpy, new array": lambda: run(x)}


def torch_rows(communicator: mixcomm.Communicator, device: str) -> dict[str, Callable[[], object]]:
    """The methods and the ops, on torch tensors."""
    import torch

    import mixcomm.torch as ops

    x = torch.ones(1, 64, dtype=torch.bfloat16, device=device)
    out = torch.empty_like(x)
    number = ops.register(communicator)
    raw = torch.ops.mixcomm.all_reduce_all_gather_out.default
    run, op = communicator.all_reduce_all_gather, ops.all_reduce_all_gather
    return {
        "torch, out=": lambda: run(x, out=out),
        "torch, new tensor": lambda: run(x),
        "mixcomm.torch, out=": lambda: op(communicator, x, out=out),
        "mixcomm.torch, new tensor": lambda: op(communicator, x),
        "torch.ops.mixcomm, out": lambda: raw(x, out, number, None, "auto"),
    }


def graph_us(call: Callable[[], object]) -> float:
    """What one of 50 calls in a captured graph takes on the device, when 100 graphs are launched in a row."""
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_PER_GRAPH):
            call()
    best = float("inf")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(9):
        graph.replay()
        begin.record()
        for _ in range(LAUNCHES):
            graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return best * 1e3 / LAUNCHES / CALLS_PER_GRAPH


def cuda_rows(cpp: dict[str, Any]) -> list[dict[str, Any]]:
    """The same on a GPU, and in captured graphs."""
    import torch

    communicator = mixcomm.Communicator(mixcomm.from_env(), backend="cuda")
    counts = torch.ones(1, dtype=torch.int64, device="cuda")
    x = torch.ones(1, 64, dtype=torch.bfloat16, device="cuda")
    out = torch.empty_like(x)

    def kernel() -> None:
        communicator.all_reduce_all_gather(x, counts, out=out)

    calls = {
        "cuda copy": torch_rows(communicator, "cuda"),
        "cuda kernel": {"torch, out=, counts on device": kernel},
    }
    found = []
    with torch.cuda.stream(torch.cuda.Stream()):
        for kind, rows in calls.items():
            ours = cpp.get(kind, {})
            for name, call in rows.items():
                us = best_us(call, 200, 50, torch.cuda.synchronize)
                found.append({"call": f"{kind}: {name}", "python_us": us, "cpp_us": ours.get("call_us")})
            first = next(iter(rows.values()))
            found.append(
                {
                    "call": f"{kind}: in a graph of {CALLS_PER_GRAPH}, on the device",
                    "python_us": graph_us(first),
                    "cpp_us": ours.get("graph_us"),
                }
            )
    torch.cuda.synchronize()
    communicator.check()
    return found


def cpp_times(path: Path) -> dict[str, Any]:
    """What host_calls measures; nothing where it was not built."""
    if not path.exists():
        print(f"no C++ column: there is no {path}")
        return {}
    return json.loads(subprocess.run([path], capture_output=True, text=True, check=True).stdout)


def machine() -> dict[str, Any]:
    """What the times are of."""
    what = {"python": platform.python_version(), "processors": len(os.sched_getaffinity(0)), "gpu": None}
    if importlib.util.find_spec("torch"):
        import torch

        what["torch"] = torch.__version__
        if torch.cuda.is_available():
            what["gpu"] = torch.cuda.get_device_name()
    return what


def measure(cpp: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows."""
    communicator = mixcomm.Communicator(mixcomm.from_env())
    rows = numpy_rows(communicator)
    if not importlib.util.find_spec("torch"):
        return on_cpu(rows, cpp)
    import torch

    with torch.inference_mode():
        found = on_cpu(rows | torch_rows(communicator, "cpu"), cpp)
        if torch.cuda.is_available() and mixcomm.info()["cuda"]:
            found += cuda_rows(cpp)
    return found


def on_cpu(rows: dict[str, Callable[[], object]], cpp: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the CPU backend."""
    cpp_us = cpp.get("cpu", {}).get("call_us")
    return [
        {"call": f"cpu: {name}", "python_us": best_us(call), "cpp_us": cpp_us} for name, call in rows.items()
    ]


def best_of_runs(runs: int, cpp: Path) -> list[dict[str, Any]]:
    """Of each row, the best of several runs of this script."""
    command = [sys.executable, __file__, "--cpp", str(cpp), "--json"]
    found = []
    for run in range(runs):
        print(f"run {run + 1} of {runs}", file=sys.stderr)
        with tempfile.NamedTemporaryFile() as file:
            subprocess.run([*command, file.name], check=True, stdout=subprocess.DEVNULL)
            found.append(json.loads(Path(file.name).read_text())["rows"])

    def best(rows: tuple[dict[str, Any], ...], column: str) -> float | None:
        return None if rows[0][column] is None else min(row[column] for row in rows)

    return [
        {"call": rows[0]["call"], **{column: best(rows, column) for column in ("python_us", "cpp_us")}}
        for rows in zip(*found, strict=True)
    ]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    built = Path(__file__).resolve().parents[1] / "build" / "bench" / "host_calls"
    parser.add_argument("--cpp", type=Path, metavar="PATH", default=built, help=f"host_calls ({built})")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="the best of N processes (1)")
    options = parser.parse_args()
    runs, cpp = options.runs, options.cpp
    rows = best_of_runs(runs, cpp) if runs > 1 else measure(cpp_times(cpp))
    print(f"{'':46} {'Python':>8} {'C++':>8} {'above':>8}  us")
    for row in rows:
        ours, theirs = row["python_us"], row["cpp_us"]
        rest = "" if theirs is None else f" {theirs:8.2f} {ours - theirs:8.2f}"
        print(f"{row['call']:46} {ours:8.2f}{rest}")
    if options.json:
        rows = [{key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()} for row in rows]
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
