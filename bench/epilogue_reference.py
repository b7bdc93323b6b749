#!/usr/bin/env python3
"""Operations with an epilogue, beside the separate kernels that engines run in their place.

With a rank a GPU: ``mixcomm run -n 4 -- python bench/epilogue_reference.py --tp 2 --dp 2`` (or torchrun).
Each contestant is 50 calls in one captured CUDA graph; the graphs take turns, each timed behind an untimed
replay; the slowest rank counts, and the median of --launches. us per call:

- alone: the operation by itself;
- fused: the operation with the epilogue;
- ours: the operation, and the library's own kernels of the steps (Communicator.apply);
- compiled: the operation, and the steps as PyTorch compiles them;
- flashinfer, sgl_kernel: the operation, and that library's norm, where it is installed (without FP8).

Where rows are gathered, the separate steps are: the residual added on one TP rank, the operation, a copy of
the own rows (the next residual), a norm of all rows; behind reduce_scatter_all_reduce: one add + norm.
Results of all are compared with those of fused, within the roundings that separate steps have in between.
With --backend cpu there are no graphs, and calls are timed as they are.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mixcomm

CALLS = 50  # of a graph, as in mixcomm bench
EPS = 1e-6
TIMEOUT = 600.0  # seconds: one rank may compile while the others wait
E4M3_MOST = 448.0
GATHERS = "all_reduce_all_gather"
SCATTERS = "reduce_scatter_all_reduce"
Call = Callable[[], Any]


def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """RMSNorm of x, in fp32, rounded once."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * weight.float()).to(x.dtype)


def quantized(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 of y, with a scale for each 128 columns."""
    parts = y.float().unflatten(-1, (-1, 128))
    scales = parts.abs().amax(-1, keepdim=True).clamp(min=1e-10) / E4M3_MOST
    codes = (parts / scales).clamp(-E4M3_MOST, E4M3_MOST).to(torch.float8_e4m3fn)
    return codes.flatten(-2), scales.squeeze(-1)


class Case:
    """The tensors of one operation on one shape, and its contestants."""

    def __init__(self, communicator: mixcomm.Communicator, op: str, rows: int, hidden: int, options: Any):
        """Collective where buffers are symmetric."""
        self.communicator, self.op, self.rows, self.hidden = communicator, op, rows, hidden
        self.fp8 = options.epilogue == "add_rms_norm_fp8"
        self.quantize = "per_128_columns" if self.fp8 else "none"
        dtype = getattr(torch, options.dtype)
        device = "cuda" if options.backend == "cuda" else "cpu"
        make = {"device": device, "dtype": dtype}
        self.all_rows = rows * communicator.dp
        shapes = {GATHERS: (rows, self.all_rows), SCATTERS: (self.all_rows, rows)}[op]

        def buffer(count: int) -> torch.Tensor:
            if options.buffers == "symmetric":
                return communicator.empty((count, hidden), dtype)
            return torch.empty(count, hidden, **make)

        self.input, self.sums = buffer(shapes[0]), buffer(shapes[1])
        numbers = torch.Generator().manual_seed(communicator.rank)
        self.partial = torch.randn(shapes[0], hidden, generator=numbers).to(**make)
        self.input.copy_(self.partial)
        numbers.manual_seed(1000 + communicator.dp_rank)  # the same on the TP ranks of a DP rank
        self.residual = torch.randn(rows, hidden, generator=numbers).to(**make)
        numbers.manual_seed(7)
        self.weight = (1 + 0.1 * torch.randn(hidden, generator=numbers)).to(**make)
        self.kept = torch.empty_like(self.residual)
        self.y = torch.empty(
            shapes[1], hidden, device=device, dtype=torch.float8_e4m3fn if self.fp8 else dtype
        )
        self.scales = torch.empty(shapes[1], hidden // 128, device=device) if self.fp8 else None

    def run(self, **more: Any) -> None:
        """The operation, into sums unless out= says where."""
        self.communicator.run(self.op, self.input, self.rows, **{"out": self.sums} | more)

    def own(self) -> torch.Tensor:
        """The own rows of what was gathered."""
        return self.sums[self.communicator.dp_rank * self.rows :][: self.rows]

    def adds_before(self) -> bool:
        """Whether this rank is the one that adds the residual before a gather."""
        return self.op == GATHERS and self.communicator.tp_rank == 0

    def fused(self) -> None:
        """The operation with the epilogue."""
        self.run(out=self.y, epilogue=self.epilogue(residual=self.residual, residual_out=self.kept))

    def epilogue(self, **steps: Any) -> mixcomm.Epilogue:
        """Norm and FP8, behind these steps."""
        return mixcomm.Epilogue(
            weight=self.weight, eps=EPS, quantize=self.quantize, scales=self.scales, **steps
        )

    def ours(self) -> None:
        """The library's own kernels."""
        if self.adds_before():
            self.communicator.apply(self.partial, mixcomm.Epilogue(residual=self.residual), out=self.input)
        self.run()
        steps = {} if self.op == GATHERS else {"residual": self.residual, "residual_out": self.kept}
        if self.op == GATHERS:
            self.kept.copy_(self.own())
        self.communicator.apply(self.sums, self.epilogue(**steps), out=self.y)

    def compiled(self) -> Call:
        """The steps as PyTorch compiles them, around the operation."""
        add = torch.compile(lambda x, r, into: into.copy_(x + r), dynamic=False)

        def store(y: torch.Tensor, into: torch.Tensor, scales: torch.Tensor | None) -> None:
            if scales is None:
                into.copy_(y)
                return
            codes, made = quantized(y)
            into.copy_(codes)
            scales.copy_(made)

        @functools.partial(torch.compile, dynamic=False)
        def behind_gather(
            sums: torch.Tensor, own: torch.Tensor, kept: torch.Tensor, *to: torch.Tensor | None
        ) -> None:
            kept.copy_(own)
            store(normed(sums, self.weight), *to)

        @functools.partial(torch.compile, dynamic=False)
        def behind_scatter(
            sums: torch.Tensor, residual: torch.Tensor, kept: torch.Tensor, *to: torch.Tensor | None
        ) -> None:
            total = (sums.float() + residual.float()).to(sums.dtype)
            kept.copy_(total)
            store(normed(total, self.weight), *to)

        def gathers() -> None:
            if self.adds_before():
                add(self.partial, self.residual, self.input)
            self.run()
            behind_gather(self.sums, self.own(), self.kept, self.y, self.scales)

        def scatters() -> None:
            self.run()
            behind_scatter(self.sums, self.residual, self.kept, self.y, self.scales)

        return gathers if self.op == GATHERS else scatters

    def library(self, name: str) -> Call | None:
        """The norm of FlashInfer or sgl-kernel; None where it is not there."""
        if self.fp8 or not self.input.is_cuda or importlib.util.find_spec(name) is None:
            return None
        kernels = importlib.import_module("flashinfer.norm" if name == "flashinfer" else name)

        def gathers() -> None:
            if self.adds_before():
                torch.add(self.partial, self.residual, out=self.input)
            self.run()
            self.kept.copy_(self.own())
            kernels.rmsnorm(self.sums, self.weight, EPS, out=self.y)

        def scatters() -> None:
            # It adds and norms in place: of a residual that is copied first, which a layer need not do.
            self.kept.copy_(self.residual)
            self.run(out=self.y)
            kernels.fused_add_rmsnorm(self.y, self.kept, self.weight, EPS)

        return gathers if self.op == GATHERS else scatters

    def contestants(self) -> dict[str, Call]:
        """By name, in the order of the docstring."""
        found: dict[str, Call | None] = {
            "alone": self.run,
            "fused": self.fused,
            "ours": self.ours,
            "compiled": self.compiled(),
            "flashinfer": self.library("flashinfer"),
            "sgl_kernel": self.library("sgl_kernel"),
        }
        return {name: call for name, call in found.items() if call is not None}

    def results(self, call: Call) -> list[torch.Tensor]:
        """What a call gives, from its inputs as they were."""
        self.input.copy_(self.partial)
        self.kept.zero_()
        self.y.zero_()
        call()
        y = self.y.float()
        if self.scales is not None:
            y = (y.unflatten(-1, (-1, 128)) * self.scales.unsqueeze(-1)).flatten(-2)
        return [y.cpu(), self.kept.float().cpu()]

    def check(self, name: str, call: Call) -> None:
        """Raises where a contestant's results are not those of fused."""
        if name in ("alone", "fused"):
            return
        # Roundings of parts of the sum, each larger than the sum may be; with FP8 a code beside.
        coarse = 2 ** -(3 if self.fp8 else {torch.bfloat16: 6, torch.float16: 9}.get(self.input.dtype, 16))
        for mine, wanted in zip(self.results(call), self.results(self.fused), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=coarse, atol=4 * coarse)


class Ranks:
    """Where all ranks meet, on the host."""

    def __init__(self, bootstrap: Any):
        """Collective."""
        self._communicator = mixcomm.Communicator(bootstrap, dp=bootstrap.world_size, tp=1, timeout=TIMEOUT)
        self.rank = bootstrap.rank

    def slowest(self, us: float) -> float:
        """The most of all ranks' numbers. Collective; so a barrier as well."""
        return float(self._communicator.all_gather(np.array([[us]], np.float32)).max())


def graph_of(call: Call) -> Call:
    """Replays a graph of CALLS calls, and returns how many us each took on the device."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(CALLS):
            call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def replay() -> float:
        graph.replay()  # while this one runs, the timed one is brought to the device
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3 / CALLS

    return replay


def loop_of(call: Call) -> Call:
    """The same without a device."""

    def repeat() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        return (time.perf_counter() - start) * 1e6 / CALLS

    return repeat


def measure(case: Case, ranks: Ranks, launches: int) -> dict[str, float]:
    """The medians, by contestant. Collective."""
    contestants = case.contestants()
    for name, call in contestants.items():
        case.check(name, call)
    timed = {name: (graph_of if case.input.is_cuda else loop_of)(call) for name, call in contestants.items()}
    names, us = list(timed), {name: [] for name in timed}
    for launch in range(launches + 3):
        for turn in range(len(names)):  # none is always behind the same other one
            name = names[(turn + launch) % len(names)]
            ranks.slowest(0)
            spent = ranks.slowest(timed[name]())
            if launch >= 3:
                us[name].append(spent)
    case.communicator.check()
    return {name: round(statistics.median(each), 3) for name, each in us.items()}


def numbers(text: str) -> list[int]:
    """Of "1,4,16"."""
    return [int(each) for each in text.split(",")]


def main() -> None:
    """Prints a table on rank 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--dp", type=int, default=2)
    parser.add_argument("--op", choices=("all", GATHERS, SCATTERS), default="all")
    parser.add_argument("--rows", type=numbers, default=[1, 4, 16, 64, 256], help="of each DP rank")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--epilogue", choices=("add_rms_norm", "add_rms_norm_fp8"), default="add_rms_norm")
    parser.add_argument("--buffers", choices=("symmetric", "plain"), default="symmetric")
    parser.add_argument("--backend", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--launches", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.epilogue == "add_rms_norm_fp8" and options.hidden % 128:
        parser.error(f"--hidden {options.hidden}: with FP8 it is a multiple of 128 here")
    if options.backend == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that PyTorch can use; --backend cpu measures the CPU backend")
    bootstrap = mixcomm.from_env()
    if options.backend == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", bootstrap.rank)) % torch.cuda.device_count())
    ranks = Ranks(bootstrap)
    communicator = mixcomm.Communicator(
        bootstrap, tp=options.tp, dp=options.dp, backend=options.backend, timeout=TIMEOUT
    )
    on_gpu = options.backend == "cuda"
    stream = torch.cuda.stream(torch.cuda.Stream()) if on_gpu else contextlib.nullcontext()
    found = []
    with torch.inference_mode(), stream:
        for op in (GATHERS, SCATTERS) if options.op == "all" else (options.op,):
            for rows in options.rows:
                us = measure(Case(communicator, op, rows, options.hidden, options), ranks, options.launches)
                torch.compiler.reset()
                if ranks.rank != 0:
                    continue
                if not found:
                    print(f"{'op':26} {'rows':>5} " + " ".join(f"{name:>10}" for name in us), " us")
                print(f"{op:26} {rows:5} " + " ".join(f"{each:10.2f}" for each in us.values()), flush=True)
                found.append({"op": op, "rows": rows, "us": us})
    if options.json and ranks.rank == 0:
        settings = {key: value for key, value in vars(options).items() if key not in ("json", "rows", "op")}
        gpu = torch.cuda.get_device_name() if options.backend == "cuda" else None
        about = {"torch": torch.__version__, "gpu": gpu, "settings": settings}
        options.json.write_text(json.dumps(about | {"rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
