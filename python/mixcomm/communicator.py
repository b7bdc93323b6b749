"""The five operations on one TP x DP grid of ranks."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NoReturn

from . import _core, arrays
from . import bootstrap as _bootstrap
from .epilogue import Epilogue, codes_of, empty_result
from .errors import InvalidArgument

Rows = int | Sequence[int] | Any

# The operations whose out has all rows.
_GATHERS = frozenset({"all_gather", "all_reduce_all_gather"})
OPERATIONS = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_reduce_all_gather",
    "reduce_scatter_all_reduce",
)


def _grid(world: int, tp: int | None, dp: int | None) -> tuple[int, int]:
    """The grid where one side, or both, were left to the number of ranks."""
    if tp is None and dp is None:
        return world, 1
    if tp is None:
        return (world // dp if dp and dp > 0 else 0), dp  # type: ignore[return-value]
    if dp is None:
        return tp, (world // tp if tp > 0 else 0)
    return tp, dp


def default_options() -> dict[str, Any]:
    """The options of a communicator, by name, as the defaults of Communicator have them."""
    parameters = inspect.signature(Communicator.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY} | {
        "tp": 1,
        "dp": 1,
    }


class Communicator:
    """One rank's end of a communicator: five operations on a grid, rank = dp_rank * tp + tp_rank.

    Every rank makes the same calls in the same order, from one thread at a time. In host memory a call blocks
    (without the GIL) until ``out`` is complete. In CUDA memory it is put on the framework's current stream,
    can be captured in a CUDA graph, and never waits for the device.

    Arrays: numpy (bfloat16 of ml_dtypes), torch, and whatever speaks DLPack or the buffer protocol; bf16,
    fp16 or fp32; contiguous. The first axis are the rows, the others together are hidden. Nothing is copied
    on the way in or out. ``input`` may be ``out``, or where the shapes differ the smaller may be this rank's
    block of the larger.

    ``rows``: how many rows each DP rank has: an int for all, a sequence with one count per DP rank (0
    allowed), or (CUDA) an int64 device array with one count per DP rank, read when the operation runs. None:
    all as many as this one. Every rank passes the same.

    ``out``: where the result goes; None makes a new array like ``input``. Returned either way. ``algorithm``:
    "auto", "one_shot", "two_shot", "composed", "nccl". ``stream``: a cudaStream_t as an int instead of the
    current one.

    ``epilogue``: what is done with the summed rows before they are handed out (Epilogue); None for nothing.

    Sums are ordered: in fp32 over t, then over d, neighbours first, ((0 + 1) + (2 + 3)), rounded once; the
    same bits on every rank. Not so with "composed", where reduce_scatter_all_reduce rounds twice, and with
    "nccl".

    Raises InvalidArgument (nothing was sent), Disagreement, Timeout; after the last two the communicator is
    failed, and later calls raise the same. Not to be pickled, nor used in a forked child.

    Example (``mixcomm run -n 4 -- python example.py``)::

        with mixcomm.Communicator.from_env(tp=2, dp=2) as communicator:
            out = communicator.all_reduce_all_gather(np.ones((3, 4096), np.float32))
    """

    def __init__(
        self,
        bootstrap: _core.Bootstrap | None = None,
        *,
        tp: int | None = None,
        dp: int | None = None,
        algorithm: str = "auto",
        timeout: float = _bootstrap.DEFAULT_TIMEOUT,
        check_agreement: bool | None = None,
        workspace_bytes: int = 0,
        backend: str = "cpu",
        threads: int = 0,
        device: int = -1,
        protocol: str = "auto",
        max_lanes: int = 0,
        multicast: bool = False,
        nccl: int = 0,
        nccl_windows: bool = False,
        tuning: _core.TuningTable | str | os.PathLike[str] | None = None,
    ) -> None:
        """Collective over the bootstrap's ranks (None: from_env()), which pass the same.

        tp, dp: tp * dp ranks; one that is left out follows from their number, both make a grid of TP alone.
        timeout: seconds, of every wait. check_agreement: compare each call between ranks (None: on CPU).
        workspace_bytes: staging per rank (0: 1 MiB, or 4 MiB on CUDA). backend: "cpu" or "cuda". threads:
        with how many at most this rank copies and sums on CPU, the calling one included (0: MIXCOMM_THREADS,
        or the cores that the calling thread may run on, divided among the ranks that share them, and no more
        than OMP_NUM_THREADS); ranks may differ, results are the same bits. device: CUDA
        device (-1: the current one). protocol: how data travels on CUDA: "auto" (by how the GPUs are joined),
        "packets", "lines" (over NVLink, or on one GPU; else Unsupported), "barriers". max_lanes, multicast,
        nccl (an ncclComm_t as an int), nccl_windows: see CudaOptions in mixcomm/communicator.hpp, and
        MIXCOMM_DISABLE=lines,multicast to go without. tuning: what mixcomm.tune() or
        `mixcomm tune` made for this machine, grid and backend, or the file with it, the same on all ranks.
        Raises InvalidArgument, Unsupported, Disagreement, Timeout, SystemError.
        """
        if bootstrap is None:
            bootstrap = _bootstrap.from_env(timeout)
        tp, dp = _grid(bootstrap.world_size, tp, dp)
        options = {
            "tp": tp,
            "dp": dp,
            "algorithm": algorithm,
            "timeout": timeout,
            "check_agreement": check_agreement,
            "workspace_bytes": workspace_bytes,
            "backend": backend,
            "threads": threads,
            "device": device,
            "protocol": protocol,
            "max_lanes": max_lanes,
            "multicast": multicast,
            "nccl": nccl,
            "nccl_windows": nccl_windows,
            "tuning": tuning,
        }
        self._core = _core.Communicator(bootstrap, options)
        self.bootstrap = bootstrap
        self.tp: int = tp
        self.dp: int = dp
        self.rank: int = bootstrap.rank
        self.world_size: int = tp * dp
        self.tp_rank: int = self.rank % tp
        self.dp_rank: int = self.rank // tp
        self.backend: str = backend

    @classmethod
    def from_env(cls, **options: Any) -> Communicator:
        """Over the ranks of the launcher; see mixcomm.from_env(). ``options``: as above."""
        return cls(_bootstrap.from_env(options.get("timeout", _bootstrap.DEFAULT_TIMEOUT)), **options)

    @classmethod
    def from_torch(cls, process_group: Any = None, **options: Any) -> Communicator:
        """Over the ranks of a process group; see mixcomm.from_torch(). ``options``: as above."""
        timeout = options.get("timeout", _bootstrap.DEFAULT_TIMEOUT)
        return cls(_bootstrap.from_torch(process_group, timeout), **options)

    @classmethod
    def from_mpi(cls, comm: Any = None, **options: Any) -> Communicator:
        """Over the ranks of an mpi4py communicator; see mixcomm.from_mpi(). ``options``: as above."""
        return cls(_bootstrap.from_mpi(comm, options.get("timeout", _bootstrap.DEFAULT_TIMEOUT)), **options)

    def all_reduce(
        self,
        input: Any,
        *,
        out: Any = None,
        algorithm: str = "auto",
        stream: int | None = None,
        rows: Rows = None,
        epilogue: Epilogue | None = None,
    ) -> Any:
        """out = sum over t of input@(t, d), elementwise.

        input, out: n x hidden; n is the same on the TP ranks of a DP rank. ``rows`` is for counts in device
        memory.
        """
        return self.run(
            "all_reduce", input, rows, out=out, algorithm=algorithm, stream=stream, epilogue=epilogue
        )

    def all_gather(
        self,
        input: Any,
        rows: Rows = None,
        *,
        out: Any = None,
        algorithm: str = "auto",
        stream: int | None = None,
        epilogue: Epilogue | None = None,
    ) -> Any:
        """Out block d = input@(t, d). input: rows[d] x hidden; out: sum(rows) x hidden."""
        return self.run(
            "all_gather", input, rows, out=out, algorithm=algorithm, stream=stream, epilogue=epilogue
        )

    def reduce_scatter(
        self,
        input: Any,
        rows: Rows = None,
        *,
        out: Any = None,
        algorithm: str = "auto",
        stream: int | None = None,
        epilogue: Epilogue | None = None,
    ) -> Any:
        """out = sum over d' of block d of input@(t, d'). input: sum(rows) x hidden; out: rows[d] x hidden."""
        return self.run(
            "reduce_scatter", input, rows, out=out, algorithm=algorithm, stream=stream, epilogue=epilogue
        )

    def all_reduce_all_gather(
        self,
        input: Any,
        rows: Rows = None,
        *,
        out: Any = None,
        algorithm: str = "auto",
        stream: int | None = None,
        epilogue: Epilogue | None = None,
    ) -> Any:
        """Out block d = sum over t of input@(t, d).

        input: rows[d] x hidden, partial over tp; out: sum(rows) x hidden, the same on every rank.
        """
        return self.run(
            "all_reduce_all_gather",
            input,
            rows,
            out=out,
            algorithm=algorithm,
            stream=stream,
            epilogue=epilogue,
        )

    def reduce_scatter_all_reduce(
        self,
        input: Any,
        rows: Rows = None,
        *,
        out: Any = None,
        algorithm: str = "auto",
        stream: int | None = None,
        epilogue: Epilogue | None = None,
    ) -> Any:
        """out = sum over d' of (sum over t of block d of input@(t, d')).

        input: sum(rows) x hidden, partial over the world; out: rows[d] x hidden.
        """
        return self.run(
            "reduce_scatter_all_reduce",
            input,
            rows,
            out=out,
            algorithm=algorithm,
            stream=stream,
            epilogue=epilogue,
        )

    def run(
        self,
        op: str,
        input: Any,
        rows: Rows = None,
        *,
        out: Any = None,
        algorithm: str = "auto",
        stream: int | None = None,
        epilogue: Epilogue | None = None,
    ) -> Any:
        """The operation of that name."""
        if out is None:
            out = empty_result(input, self.out_rows(op, input.shape[0], rows), epilogue)
        if epilogue is None:
            self._core.run(op, input, out, rows, algorithm, stream)
        else:
            self._core.run(op, input, codes_of(out, epilogue), rows, algorithm, stream, epilogue)
        return out

    def apply(self, input: Any, epilogue: Epilogue, *, out: Any = None, stream: int | None = None) -> Any:
        """The steps of an epilogue by themselves, as an operation does them whose sum is ``input``.

        The same bits. input, out: n x hidden, residual and residual_out as well. Local: no other rank must
        call. ``out`` may be ``input``, unless it is FP8.
        """
        if out is None:
            out = empty_result(input, input.shape[0], epilogue)
        self._core.apply(input, codes_of(out, epilogue), epilogue, stream)
        return out

    def out_rows(self, op: str, input_rows: int, rows: Rows = None) -> int:
        """How many rows the result of ``op`` has on this rank, for an input of ``input_rows`` rows.

        With counts in device memory: the most there may be. Raises InvalidArgument where that cannot be told.
        """
        if op == "all_reduce":
            return input_rows
        if rows is None or (hasattr(rows, "__dlpack_device__") and rows.__dlpack_device__()[0] == 2):
            if op in _GATHERS:
                return input_rows * self.dp
            if input_rows % self.dp:
                raise InvalidArgument(
                    f"{op}: 'input' has {input_rows} rows, which {self.dp} DP ranks cannot share "
                    "evenly; pass rows, one count per DP rank"
                )
            return input_rows // self.dp
        if isinstance(rows, Integral):
            return int(rows) * self.dp if op in _GATHERS else int(rows)
        if len(rows) != self.dp:
            raise InvalidArgument(
                f"{op}: {len(rows)} row counts were given for {self.dp} DP ranks; "
                "pass one count per DP rank, or one for all"
            )
        return int(sum(rows)) if op in _GATHERS else int(rows[self.dp_rank])

    def allocate(self, nbytes: int) -> _core.Buffer:
        """Collective: symmetric memory of ``nbytes`` on each rank, zeroed, 4096-byte aligned.

        Operations on arrays over it (Buffer.array) copy nothing; all ranks then pass the same place. It lives
        until the last array over it is gone, also beyond the communicator. Raises Disagreement,
        InvalidArgument, SystemError.
        """
        return self._core.allocate(nbytes)

    def empty(self, shape: Sequence[int], dtype: Any = "float32") -> Any:
        """Collective: an array of that shape in symmetric memory, zeroed; all ranks pass the same.

        A torch tensor for a torch dtype, else a numpy array in host memory, else one that speaks DLPack.
        """
        count = 1
        for length in shape:
            count *= length
        size = 4 if arrays.dtype_name(dtype) == "fp32" else 2
        return arrays.over_buffer(self.allocate(max(count * size, 1)), tuple(shape), dtype)

    def pause(self) -> None:
        """Collective: gives the memory of this communicator, and all it has given out, back to the system.

        Every address stays reserved. Until resume() operations and allocate() raise InvalidArgument, arrays
        over the memory must not be touched, and graphs that use it not replayed. Waits for the device. Paused
        already: does nothing. Raises Unsupported with nccl_windows; and this communicator's failure. An error
        while memory is being given back fails the communicator.
        """
        self._core.pause()

    def resume(self) -> None:
        """Collective: new memory at the same addresses: CUDA graphs captured before can be replayed at once.

        Arrays over it are zeroed; what was in them is lost. Not paused: does nothing. Raises on every rank or
        on none, where there is not enough memory (CudaError) or a rank does not come (Timeout): it is still
        paused then.
        """
        self._core.resume()

    @property
    def paused(self) -> bool:
        """Whether pause() was called last."""
        return self._core.paused

    def check(self) -> None:
        """Raises this communicator's failure, if any; on CUDA what its kernels have found so far."""
        self._core.check()

    def plan(
        self, op: str, rows: Rows, hidden: int, dtype: Any = "bfloat16", symmetric: bool = False
    ) -> dict[str, Any]:
        """What "auto" runs for ``op`` on these rows, and why: {"op", "algorithm", "why", "bytes"}.

        rows: per DP rank, as for the operations. symmetric: the array with all rows is from allocate().
        """
        total = self.out_rows(
            "all_gather" if op != "all_reduce" else op, rows if isinstance(rows, Integral) else 0, rows
        )
        nbytes = total * hidden * (4 if arrays.dtype_name(dtype) == "fp32" else 2)
        algorithm, why = self._core.choose(op, nbytes, symmetric, self._crowded())
        return {"op": op, "algorithm": algorithm, "why": why, "bytes": nbytes}

    def _crowded(self) -> bool:
        """More ranks than processors, as the CPU backend counts them."""
        return self.backend == "cpu" and self.world_size > len(os.sched_getaffinity(0))

    def info(self) -> dict[str, Any]:
        """Grid, backend and options of this communicator, as agreed."""
        return self._core.info()

    def close(self) -> None:
        """Ends this rank's part: later calls raise InvalidArgument. Local; closing twice is fine."""
        self._core.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._core.closed

    def __enter__(self) -> Communicator:
        """Itself; closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def __repr__(self) -> str:
        """The grid, and who this is in it."""
        state = "closed, " if self.closed else ""
        grid = f"tp={self.tp}, dp={self.dp}, rank={self.rank}"
        return f"<mixcomm.Communicator {state}{grid}, backend={self.backend}>"

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled."""
        raise TypeError(
            "a mixcomm.Communicator cannot be pickled or copied: it is shared memory and a place in the "
            "grid, which belong to this process. Make one in each process (from_env, from_torch)"
        )
