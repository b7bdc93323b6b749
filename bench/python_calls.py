"""What a call from Python takes, in us: one rank, 1 x 64 elements, so nearly all of it is the way in and out.

Run: build/python-env/bin/python bench/python_calls.py (with PyTorch's rows where it is installed).
"""

import importlib.util
import time
from collections.abc import Callable

import numpy as np

import mixcomm


def best_us(call: Callable[[], object], times: int = 10_000, rounds: int = 9) -> float:
    """Of several rounds, the time per call in the best one."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(times):
            call()
        best = min(best, (time.perf_counter() - start) / times)
    return best * 1e6


def main() -> None:
    """Prints a table."""
    rows: dict[str, Callable[[], object]] = {}
    communicator = mixcomm.Communicator(mixcomm.from_env())
    x = np.ones((1, 64), np.float32)
    out = np.empty_like(x)
    rows["numpy, out="] = lambda: communicator.all_reduce_all_gather(x, out=out)
    rows["numpy, new array"] = lambda: communicator.all_reduce_all_gather(x)
    if importlib.util.find_spec("torch"):
        import torch

        import mixcomm.torch as ops

        tensor = torch.ones(1, 64, dtype=torch.bfloat16)
        tensor_out = torch.empty_like(tensor)
        rows["torch, out="] = lambda: communicator.all_reduce_all_gather(tensor, out=tensor_out)
        rows["torch, new tensor"] = lambda: communicator.all_reduce_all_gather(tensor)
        rows["mixcomm.torch, out="] = lambda: ops.all_reduce_all_gather(communicator, tensor, out=tensor_out)
        rows["mixcomm.torch, new tensor"] = lambda: ops.all_reduce_all_gather(communicator, tensor)
        with torch.inference_mode():
            report(rows)
    else:
        report(rows)


def report(rows: dict[str, Callable[[], object]]) -> None:
    """One line each."""
    for name, call in rows.items():
        print(f"{name:26} {best_us(call):6.2f} us")


if __name__ == "__main__":
    main()
