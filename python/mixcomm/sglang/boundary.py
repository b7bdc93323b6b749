"""The fused operations in the place of SGLang's: gathers into the FFN, exits out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..epilogue import Epilogue
from . import tally
from .compare import compare_entry, compare_gather, compare_scatter
from .decide import exit_left_because, left_because, row_counts
from .link import Link, current
from .norm import Norm, fused_norm, keeps_its_input


def note_gather() -> None:
    """Tells SGLang of a gather, as its own functions do, for prefill graphs that have one."""
    from sglang.srt.layers import dp_attention

    note = getattr(dp_attention, "_note_dp_gather_in_prefill_graph", None)
    if note is not None:
        note()


def own_rows(local: torch.Tensor, rows: int) -> torch.Tensor:
    """``local`` with as many rows as all ranks were told: cut, or with zeros behind."""
    if local.shape[0] == rows:
        return local
    if local.shape[0] > rows:
        return local[:rows]
    padded = local.new_zeros((rows, *local.shape[1:]))
    padded[: local.shape[0]].copy_(local)
    return padded


def _gathered(link: Link, op: str, all_rows: torch.Tensor, local: torch.Tensor, rows: list[int]) -> None:
    note_gather()
    # A dtype that one rank alone has (an idle one's) is its own affair.
    link.run(op, own_rows(local.to(all_rows.dtype), rows[link.dp_rank]), all_rows, rows)


def _gather(
    call: str,
    partial: bool,
    original: Callable[..., None],
    all_rows: torch.Tensor,
    local: torch.Tensor,
    forward_batch: Any,
    cp_shard_counts: Any = None,
) -> None:
    link = current()
    rest = () if cp_shard_counts is None else (cp_shard_counts,)
    if link is None:
        return original(all_rows, local, forward_batch, *rest)
    rows = row_counts(forward_batch)
    left = (
        tally.CONTEXT_SHARDS
        if cp_shard_counts is not None
        else left_because(
            link, rows, all_rows.shape[0], all_rows[0].numel() if all_rows.shape[0] else 0, all_rows.dtype
        )
    )
    tally.count(call, left or tally.FUSED)
    if left is not None:
        return original(all_rows, local, forward_batch, *rest)
    op = link.gather_partial if partial else "all_gather"
    if link.asked.check:
        compare_gather(link, call, op, original, all_rows, local, forward_batch, rows)
    return _gathered(link, op, all_rows, local, rows)


def gather_partial(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """dp_gather_partial(global_tokens, local_tokens, forward_batch): block d = sum over t of local@(t, d)."""
    return _gather("dp_gather_partial", True, original, *args, **_named(kwargs))


def gather_replicate(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """dp_gather_replicate(global_tokens, local_tokens, forward_batch): block d = local@(t, d)."""
    return _gather("dp_gather_replicate", False, original, *args, **_named(kwargs))


def _named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """SGLang's names of the arguments, as ours."""
    names = {"global_tokens": "all_rows", "local_tokens": "local"}
    return {names.get(name, name): value for name, value in kwargs.items()}


def reduce_scatter_tensor(original: Callable[..., None], output: torch.Tensor, input: torch.Tensor) -> None:
    """dp_reduce_scatter_tensor(output, input): output = sum over all ranks of block d (MAX_LEN)."""
    link = current()
    if link is None:
        return original(output, input)
    rows = row_counts()
    left = left_because(link, rows, input.shape[0], input[0].numel() if input.shape[0] else 0, input.dtype)
    tally.count("dp_reduce_scatter_tensor", left or tally.FUSED)
    if left is not None:
        return original(output, input)
    if link.asked.check:
        compare_scatter(link, "dp_reduce_scatter_tensor", link.exit, original, output, input, rows)
    return _scattered(link, output, input, rows)


def _scattered(link: Link, output: torch.Tensor, input: torch.Tensor, rows: list[int]) -> None:
    note_gather()
    mine = rows[link.dp_rank]
    if output.shape[0] == mine and output.dtype == input.dtype:
        return link.run(link.exit, input, output, rows)
    own = input.new_empty((mine, *output.shape[1:]))
    link.run(link.exit, input, own, rows)
    both = min(mine, output.shape[0])
    output[:both].copy_(own[:both])
    output[both:].zero_()
    return None


def exit_is_fused(call: str) -> bool:
    """Whether an FFN's exit with counts is fused; asked before the FFN runs."""
    link = current()
    if link is None:
        return False
    left = exit_left_because(link, row_counts())
    tally.count(call, left or tally.FUSED)
    return left is None


def exit_with_counts(
    output: torch.Tensor, input: torch.Tensor, call: str, stock: Callable[..., None]
) -> None:
    """The exit of which exit_is_fused() has said yes; it is not decided again, for the FFN has left its sum.

    stock(output, input): SGLang's own way, for comparison.
    """
    link = current()
    rows = row_counts()
    if link is None or rows is None:
        raise RuntimeError("mixcomm.sglang: an FFN left its sum to an exit that is no longer fused")
    if link.asked.check:
        compare_scatter(link, call, link.exit, stock, output, input, rows)
    return _scattered(link, output, input, rows)


def all_reduce_and_cut(output: torch.Tensor, input: torch.Tensor) -> None:
    """SGLang's exit with SUM_LEN padding: an all-reduce over the TP group, and the own rows of it."""
    link = current()
    assert link is not None
    rows = row_counts()
    assert rows is not None
    first = sum(rows[: link.dp_rank])
    sums = link.tp_group.all_reduce(input)
    output.copy_(sums[first : first + output.shape[0]])


class Entered(NamedTuple):
    """What goes into the FFN: the gathered rows, this rank's new residual, and whether the norm is done."""

    rows: torch.Tensor
    residual: torch.Tensor
    normed: bool


def gather_sum_residual(
    hidden_states: torch.Tensor, residual: torch.Tensor, forward_batch: Any, norm: Any
) -> Entered | None:
    """The way into the FFN under attention TP x DP: the sum over TP, the residual added once, the gather.

    With SGLANG_MIXED_COMM_NORM the norm as well, all in one operation. Else the residual is added on TP rank
    0 before, and the new one is this rank's part of the gathered rows in place (SGLang copies it). None where
    SGLang's own function is to run, since the gather would be left to it. hidden_states is overwritten.
    """
    link = current()
    if link is None:
        return None
    from sglang.srt.layers.dp_attention import (
        dp_gather_partial,
        dp_scatter,
        get_dp_dtype,
        get_dp_hidden_size,
        get_global_dp_buffer,
        get_global_dp_buffer_len,
    )

    rows = row_counts(forward_batch)
    if left_because(link, rows, get_global_dp_buffer_len(), get_dp_hidden_size(), get_dp_dtype()) is not None:
        return None
    assert rows is not None
    fused = fused_norm(norm, get_dp_dtype()) if link.asked.norm.gather else None
    if (
        fused is not None
        and link.gather_partial == "all_reduce_all_gather"
        and not torch.compiler.is_compiling()
    ):
        return _gather_norm(link, hidden_states, residual, rows, fused)
    if link.communicator.tp_rank == 0:
        hidden_states += residual
    all_rows = get_global_dp_buffer(link.tp_group)
    dp_gather_partial(all_rows, hidden_states, forward_batch)
    if residual.shape[0] == rows[link.dp_rank] and keeps_its_input(norm):
        residual = all_rows.narrow(0, sum(rows[: link.dp_rank]), residual.shape[0])
    else:
        dp_scatter(residual, all_rows, forward_batch)
    return Entered(all_rows, residual, normed=False)


def run_with_norm(
    link: Link,
    op: str,
    input: torch.Tensor,
    out: torch.Tensor,
    rows: list[int],
    residual: torch.Tensor,
    norm: Norm,
) -> None:
    """The operation with residual and norm behind its sum. residual becomes the new one; of other strides,
    dtype or number of rows than the operation wants it is this rank's own affair.
    """
    mine = rows[link.dp_rank]
    own = own_rows(residual.to(out.dtype), mine).contiguous()
    kept = own if own.data_ptr() == residual.data_ptr() else torch.empty_like(own)
    epilogue = Epilogue(
        residual=own, residual_out=kept, weight=norm.weight, eps=norm.eps, weight_plus_one=norm.plus_one
    )
    link.run(op, input, out, rows, epilogue)
    if kept is not residual:
        both = min(mine, residual.shape[0])
        residual[:both].copy_(kept[:both])


def _gather_norm(
    link: Link, hidden_states: torch.Tensor, residual: torch.Tensor, rows: list[int], norm: Norm
) -> Entered:
    from sglang.srt.layers.dp_attention import get_global_dp_buffer

    call = "gather with residual and norm"
    tally.count(call)
    all_rows = get_global_dp_buffer(link.tp_group)
    if link.asked.check:
        compare_entry(link, call, all_rows, rows, norm)
    note_gather()
    own = own_rows(hidden_states.to(all_rows.dtype), rows[link.dp_rank])
    run_with_norm(link, "all_reduce_all_gather", own, all_rows, rows, residual, norm)
    return Entered(all_rows, residual, normed=True)
