"""Measures which algorithm pays where on this machine, as `mixcomm tune` does."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from . import _core
from . import bootstrap as _bootstrap
from .communicator import _grid


class _Progress:
    """A line on stderr: in place on a terminal, elsewhere now and then."""

    def __init__(self) -> None:
        self.last = float("-inf")

    def __call__(self, done: int, total: int, now: str) -> None:
        in_place = sys.stderr.isatty()
        if not in_place and time.monotonic() - self.last < 5:
            return
        self.last = time.monotonic()
        text = f"mixcomm.tune: {done} of {total}, {now}"
        print(f"\r{text:78}" if in_place else text, end="" if in_place else "\n", file=sys.stderr, flush=True)


def tune(
    bootstrap: _core.Bootstrap | None = None,
    *,
    tp: int | None = None,
    dp: int | None = None,
    out: str | os.PathLike[str] | None = None,
    seconds: float = 40.0,
    most_bytes: int = 4 << 20,
    backend: str = "cpu",
    device: int = -1,
    timeout: float = _bootstrap.DEFAULT_TIMEOUT,
    progress: bool = True,
) -> _core.TuningTable:
    """A table of which algorithm pays where, for this machine and grid, as measured now.

    Collective over the bootstrap's ranks (None: from_env()), which pass the same and return the same table.
    Pass it, or the file that it was written to, as ``Communicator(tuning=...)``: "auto" then goes by what was
    measured. tp, dp: as of Communicator. out: a file that rank 0 writes. seconds: for all measurements
    together. most_bytes: of the largest tensor. progress: rank 0 says on stderr how far it is. Ranks stay on
    the processors where they are: bind them first, as they will run.

    backend "cuda": algorithm, protocol and threads are measured on the GPU of each rank, ``device`` (-1:
    the current one), as CUDA graphs whose results are compared with exact sums. Ranks as threads have a GPU
    each, or all the same one, on which nothing else runs meanwhile; CUDA_DEVICE_MAX_CONNECTIONS=32 must then
    be set before CUDA starts.

    Raises Unsupported where CUDA cannot be used; InvalidArgument, Timeout, SystemError.
    """
    if bootstrap is None:
        bootstrap = _bootstrap.from_env(timeout)
    tp, dp = _grid(bootstrap.world_size, tp, dp)
    options: dict[str, Any] = {
        "tp": tp,
        "dp": dp,
        "backend": backend,
        "device": device,
        "seconds": seconds,
        "most_bytes": most_bytes,
        "timeout": timeout,
    }
    table = _core.tune(bootstrap, options, _Progress() if progress and bootstrap.rank == 0 else None)
    if bootstrap.rank == 0:
        if progress and sys.stderr.isatty():
            print(file=sys.stderr)
        if out is not None:
            table.save(out)
    return table
