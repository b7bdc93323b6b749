"""The operations as PyTorch custom ops, for torch.compile, torch.export and CUDA graphs.

``mixcomm.torch.all_reduce_all_gather(communicator, x)`` and so on give a new tensor; with ``out=`` they write
into one. Inference only: tensors that require grad are refused while autograd records. The ops behind them
are ``torch.ops.mixcomm.*``, which take a communicator as the number that ``register`` gives. Where nobody
looks on (no tracing, no profiler), a call goes straight to the communicator: PyTorch's dispatcher would take
longer than all the rest.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .communicator import _GATHERS, OPERATIONS, Communicator
from .epilogue import Epilogue, codes_of
from .errors import InvalidArgument, Unsupported

_communicators: weakref.WeakValueDictionary[int, Communicator] = weakref.WeakValueDictionary()
_numbers = itertools.count()  # also for ranks that are threads


def register(communicator: Communicator) -> int:
    """The number by which the ops know this communicator, in this process; the same each time.

    Numbers are given in order, so ranks that register the same communicators have the same ones. The
    communicator must live as long as compiled code or graphs that use it.
    """
    number = getattr(communicator, "_torch_number", None)
    if number is None:
        number = communicator._torch_number = next(_numbers)
        _communicators[number] = communicator
    return number


def _registered(number: int) -> Communicator:
    communicator = _communicators.get(number)
    if communicator is None:
        raise InvalidArgument(
            f"no communicator has the number {number}: it was dropped, or belongs to another process; keep "
            "it, and pass what mixcomm.torch.register() returned here"
        )
    return communicator


def _out_rows(communicator: Communicator, op: str, input_rows: int, rows: Sequence[int] | None) -> int:
    """Communicator.out_rows for counts that may be symbolic."""
    if op == "all_reduce":
        return input_rows
    if rows is None:
        return input_rows * communicator.dp if op in _GATHERS else input_rows // communicator.dp
    if len(rows) == 1:
        return rows[0] * communicator.dp if op in _GATHERS else rows[0]
    return sum(rows) if op in _GATHERS else rows[communicator.dp_rank]


def _counts(rows: Sequence[int] | None) -> int | Sequence[int] | None:
    return rows[0] if rows is not None and len(rows) == 1 else rows


def _refuse_grad(op: str, *tensors: torch.Tensor) -> None:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise InvalidArgument(
            f"mixcomm::{op}: a tensor requires grad, and mixcomm has no backward pass (it is for inference): "
            "run under torch.inference_mode() or torch.no_grad(), or pass tensor.detach()"
        )


_library = torch.library.Library("mixcomm", "DEF")


def _define(op: str) -> None:
    """Defines mixcomm::op and mixcomm::op_out: for devices, for tracing, and the refusal of autograd."""

    def run(
        input: torch.Tensor, communicator: int, rows: Sequence[int] | None, algorithm: str
    ) -> torch.Tensor:
        mine = _registered(communicator)
        out = input.new_empty((_out_rows(mine, op, input.shape[0], rows), *input.shape[1:]))
        mine._core.run(op, input.contiguous(), out, _counts(rows), algorithm, None)
        return out

    def run_out(
        input: torch.Tensor, out: torch.Tensor, communicator: int, rows: Sequence[int] | None, algorithm: str
    ) -> None:
        _registered(communicator)._core.run(op, input, out, _counts(rows), algorithm, None)

    def fake(
        input: torch.Tensor, communicator: int, rows: Sequence[int] | None, algorithm: str
    ) -> torch.Tensor:
        rows_out = _out_rows(_registered(communicator), op, input.shape[0], rows)
        return input.new_empty((rows_out, *input.shape[1:]))

    def fake_out(
        input: torch.Tensor, out: torch.Tensor, communicator: int, rows: Sequence[int] | None, algorithm: str
    ) -> None:
        rows_out = _out_rows(_registered(communicator), op, input.shape[0], rows)
        torch._check(out.shape[0] == rows_out, lambda: f"{op}: 'out' has {out.shape[0]} rows, not {rows_out}")

    def autograd(input: torch.Tensor, *rest: object) -> torch.Tensor:
        _refuse_grad(op, input)
        with torch._C._AutoDispatchBelowAutograd():
            return _OPS[op](input, *rest)

    def autograd_out(input: torch.Tensor, out: torch.Tensor, *rest: object) -> None:
        _refuse_grad(op, input, out)
        with torch._C._AutoDispatchBelowAutograd():
            _OUT_OPS[op](input, out, *rest)

    tags = (torch.Tag.pt2_compliant_tag,)
    _library.define(
        f"{op}(Tensor input, int communicator, SymInt[]? rows, str algorithm) -> Tensor", tags=tags
    )
    _library.define(
        f"{op}_out(Tensor input, Tensor(a!) out, int communicator, SymInt[]? rows, str algorithm) -> ()",
        tags=tags,
    )
    for device in ("CPU", "CUDA"):
        _library.impl(op, run, device)
        _library.impl(op + "_out", run_out, device)
    _library.impl(op, autograd, "Autograd")
    _library.impl(op + "_out", autograd_out, "Autograd")
    torch.library.register_fake(f"mixcomm::{op}", fake, lib=_library)
    torch.library.register_fake(f"mixcomm::{op}_out", fake_out, lib=_library)


class Finished(NamedTuple):
    """What an operation with an epilogue gives; None for what was not asked for."""

    out: torch.Tensor
    residual_out: torch.Tensor | None
    scales: torch.Tensor | None


# The steps of an epilogue, as ops take them.
_STEPS = (
    "Tensor? residual, Tensor? weight, bool keep, float eps, bool weight_plus_one, "
    "str quantize, Tensor? fixed_scale"
)


def _results(
    input: torch.Tensor, rows_out: int, own_rows: int, keep: bool, quantize: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """New tensors for out, residual_out and scales; empty for those that are not wanted."""
    hidden = math.prod(input.shape[1:])
    out_dtype = input.dtype if quantize == "none" else torch.float8_e4m3fn
    per_row = Epilogue(quantize=quantize).scales_per_row(hidden)
    return (
        input.new_empty((rows_out, *input.shape[1:]), dtype=out_dtype),
        input.new_empty((own_rows if keep else 0, *input.shape[1:])),
        input.new_empty((rows_out if per_row else 0, per_row), dtype=torch.float32),
    )


def _define_finished(op: str) -> None:
    """Defines mixcomm::op_finished, the operation with an epilogue: it gives out, residual_out and scales."""
    name = op + "_finished"

    def sizes(
        input: torch.Tensor, number: int, rows: Sequence[int] | None, keep: bool, quantize: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows_out = _out_rows(_registered(number), op, input.shape[0], rows)
        own_rows = input.shape[0] if op in _GATHERS else rows_out
        return _results(input, rows_out, own_rows, keep, quantize)

    def run(
        input: torch.Tensor,
        communicator: int,
        rows: Sequence[int] | None,
        algorithm: str,
        residual: torch.Tensor | None,
        weight: torch.Tensor | None,
        keep: bool,
        eps: float,
        weight_plus_one: bool,
        quantize: str,
        fixed_scale: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        out, kept, scales = sizes(input, communicator, rows, keep, quantize)
        epilogue = Epilogue(
            residual=residual,
            residual_out=kept if keep else None,
            weight=weight,
            eps=eps,
            weight_plus_one=weight_plus_one,
            quantize=quantize,
            scales=scales if scales.shape[1] else None,
            fixed_scale=fixed_scale,
        )
        _registered(communicator)._core.run(
            op, input.contiguous(), codes_of(out, epilogue), _counts(rows), algorithm, None, epilogue
        )
        return out, kept, scales

    def fake(
        input: torch.Tensor,
        communicator: int,
        rows: Sequence[int] | None,
        algorithm: str,
        residual: torch.Tensor | None,
        weight: torch.Tensor | None,
        keep: bool,
        eps: float,
        weight_plus_one: bool,
        quantize: str,
        fixed_scale: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return sizes(input, communicator, rows, keep, quantize)

    def autograd(input: torch.Tensor, *rest: Any) -> Any:
        _refuse_grad(name, input, *(each for each in rest if isinstance(each, torch.Tensor)))
        with torch._C._AutoDispatchBelowAutograd():
            return _FINISHED_OPS[op](input, *rest)

    _library.define(
        f"{name}(Tensor input, int communicator, SymInt[]? rows, str algorithm, {_STEPS}) "
        "-> (Tensor, Tensor, Tensor)",
        tags=(torch.Tag.pt2_compliant_tag,),
    )
    for device in ("CPU", "CUDA"):
        _library.impl(name, run, device)
    _library.impl(name, autograd, "Autograd")
    torch.library.register_fake(f"mixcomm::{name}", fake, lib=_library)


for _op in OPERATIONS:
    _define(_op)
    _define_finished(_op)
_FINISHED_OPS: dict[str, Any] = {
    op: getattr(torch.ops.mixcomm, op + "_finished").default for op in OPERATIONS
}
_OPS: dict[str, Any] = {op: getattr(torch.ops.mixcomm, op).default for op in OPERATIONS}
_OUT_OPS: dict[str, Any] = {op: getattr(torch.ops.mixcomm, op + "_out").default for op in OPERATIONS}


def _nobody_looks_on(input: torch.Tensor, out: torch.Tensor | None) -> bool:
    """Whether plain tensors are computed with, so that what the dispatcher does beside calling is not needed.

    A non-contiguous input is copied there.
    """
    return (
        not torch.compiler.is_compiling()
        and type(input) is torch.Tensor
        and (out is None or type(out) is torch.Tensor)
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._autograd._profiler_enabled()
        and input.is_contiguous()
    )


def _call(
    op: str,
    communicator: Communicator | int,
    input: torch.Tensor,
    rows: int | Sequence[int] | torch.Tensor | None,
    out: torch.Tensor | None,
    algorithm: str,
) -> torch.Tensor:
    if isinstance(rows, torch.Tensor):
        raise Unsupported(
            f"mixcomm.torch.{op}: row counts in device memory have no op yet; call Communicator.{op}, "
            "which CUDA graphs capture as well"
        )
    if _nobody_looks_on(input, out):
        mine = _registered(communicator) if isinstance(communicator, int) else communicator
        return mine.run(op, input, rows, out=out, algorithm=algorithm)
    number = communicator if isinstance(communicator, int) else register(communicator)
    counts = None if rows is None else [rows] if isinstance(rows, int | torch.SymInt) else list(rows)
    if out is None:
        return _OPS[op](input, number, counts, algorithm)
    _OUT_OPS[op](input, out, number, counts, algorithm)
    return out


def all_reduce(
    communicator: Communicator | int,
    input: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    algorithm: str = "auto",
) -> torch.Tensor:
    """out = sum over t of input@(t, d); see Communicator.all_reduce."""
    return _call("all_reduce", communicator, input, None, out, algorithm)


def all_gather(
    communicator: Communicator | int,
    input: torch.Tensor,
    rows: int | Sequence[int] | None = None,
    *,
    out: torch.Tensor | None = None,
    algorithm: str = "auto",
) -> torch.Tensor:
    """Out block d = input@(t, d); see Communicator.all_gather."""
    return _call("all_gather", communicator, input, rows, out, algorithm)


def reduce_scatter(
    communicator: Communicator | int,
    input: torch.Tensor,
    rows: int | Sequence[int] | None = None,
    *,
    out: torch.Tensor | None = None,
    algorithm: str = "auto",
) -> torch.Tensor:
    """out = sum over d' of block d of input@(t, d'); see Communicator.reduce_scatter."""
    return _call("reduce_scatter", communicator, input, rows, out, algorithm)


def all_reduce_all_gather(
    communicator: Communicator | int,
    input: torch.Tensor,
    rows: int | Sequence[int] | None = None,
    *,
    out: torch.Tensor | None = None,
    algorithm: str = "auto",
) -> torch.Tensor:
    """Out block d = sum over t of input@(t, d); see Communicator.all_reduce_all_gather."""
    return _call("all_reduce_all_gather", communicator, input, rows, out, algorithm)


def reduce_scatter_all_reduce(
    communicator: Communicator | int,
    input: torch.Tensor,
    rows: int | Sequence[int] | None = None,
    *,
    out: torch.Tensor | None = None,
    algorithm: str = "auto",
) -> torch.Tensor:
    """out = sum over all ranks of block d; see Communicator.reduce_scatter_all_reduce."""
    return _call("reduce_scatter_all_reduce", communicator, input, rows, out, algorithm)


__all__ = [*OPERATIONS, "register"]


def finished(
    op: str,
    communicator: Communicator | int,
    input: torch.Tensor,
    rows: int | Sequence[int] | None = None,
    *,
    residual: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    keep_residual: bool = True,
    eps: float = 1e-6,
    weight_plus_one: bool = False,
    quantize: str = "none",
    fixed_scale: torch.Tensor | None = None,
    algorithm: str = "auto",
) -> Finished:
    """The operation of that name with an epilogue (see mixcomm.Epilogue), into new tensors.

    residual: rows[d] x hidden; weight: hidden. keep_residual: whether the own rows of the sum are wanted,
    which are the next residual. Raises what the operation does.
    """
    if isinstance(rows, torch.Tensor):
        raise Unsupported(
            f"mixcomm.torch.finished({op!r}): row counts in device memory have no op yet; "
            f"call Communicator.{op}"
        )
    number = communicator if isinstance(communicator, int) else register(communicator)
    counts = None if rows is None else [rows] if isinstance(rows, int | torch.SymInt) else list(rows)
    out, kept, scales = _FINISHED_OPS[op](
        input,
        number,
        counts,
        algorithm,
        residual,
        weight,
        keep_residual,
        eps,
        weight_plus_one,
        quantize,
        fixed_scale,
    )
    return Finished(out, kept if keep_residual else None, scales if scales.shape[1] else None)
