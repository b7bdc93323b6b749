"""SGLang 0.5.23: boundaries in layers/layer_boundary/; small decode batches take SUM_LEN padding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from . import boundary, exit_norm, hooks_shared, link
from .hooks_shared import DP_ATTENTION
from .versions import Hook

_BOUNDARY = "sglang.srt.layers.layer_boundary"
_SUM_LEN = "exit with SUM_LEN padding"


def after_initialize(result: Any, server_args: Any) -> None:
    """initialize_dp_attention(server_args): SGLang's groups are there."""
    link.make(server_args, hooks())


def sum_len_exit(local_hidden_states: torch.Tensor, hidden_states: torch.Tensor, forward_batch: Any) -> None:
    """A step as dp_reduce_scatter is one, for rows that differ: completes the FFN's sum on the way back."""
    boundary.exit_with_counts(local_hidden_states, hidden_states, _SUM_LEN, boundary.all_reduce_and_cut)


def select_dp_reduce_scatter(
    original: Callable[..., Any], forward_batch: Any, *, may_reduce_scatter: bool, reduce_scatterv: bool
) -> Any:
    """_select_dp_reduce_scatter: which step brings the FFN's output back; asked before the FFN runs."""
    from sglang.srt.layers.dp_attention import can_use_dp_reduce_scatter

    step = original(forward_batch, may_reduce_scatter=may_reduce_scatter, reduce_scatterv=reduce_scatterv)
    if (
        step is None
        and may_reduce_scatter
        and can_use_dp_reduce_scatter()
        and boundary.exit_is_fused(_SUM_LEN)
    ):
        return sum_len_exit
    return step


def dp_reduce_scatterv(
    original: Callable[..., None],
    local_hidden_states: torch.Tensor,
    hidden_states: torch.Tensor,
    forward_batch: Any,
) -> None:
    """ops.dp_reduce_scatterv: attention TP 1, EP = attention DP."""
    if not boundary.exit_is_fused("reduce_scatterv"):
        return original(local_hidden_states, hidden_states, forward_batch)

    def stock(output: torch.Tensor, input: torch.Tensor) -> None:
        original(output, input, forward_batch)

    return boundary.exit_with_counts(local_hidden_states, hidden_states, "reduce_scatterv", stock)


def dp_gather_sum_read(
    original: Callable[..., Any],
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    forward_batch: Any,
    norm: Any,
    *,
    gathers_residual: bool,
    places_cp_shards: bool = False,
    read: Any = None,
    **rest: Any,
) -> Any:
    """prepare._dp_gather_sum_read: the way into the FFN where the gather owes attention's TP sum."""
    from sglang.srt.layers.layer_boundary.residual.add_norm import NORM_READOUT

    read = NORM_READOUT if read is None else read
    if not gathers_residual and not places_cp_shards and read is NORM_READOUT:
        entered = boundary.gather_sum_residual(hidden_states, residual, forward_batch, norm)
        if entered is not None:
            return (entered.rows if entered.normed else read.read(entered.rows, norm)[0]), entered.residual
    return original(
        hidden_states,
        residual,
        forward_batch,
        norm,
        gathers_residual=gathers_residual,
        places_cp_shards=places_cp_shards,
        read=read,
        **rest,
    )


def _leaves_to_us(hidden_states: Any) -> bool:
    """Whether these are an FFN's rows whose exit is ours: a reduce-scatter that the next layer runs."""
    from sglang.srt.layers.layer_boundary import ops
    from sglang.srt.layers.layer_boundary.output import UnreducedOutput

    move = hidden_states.reduce_to_dp_local if isinstance(hidden_states, UnreducedOutput) else None
    return (
        isinstance(move, partial)
        and move.func is ops.to_dp_local
        and move.args[0] in (sum_len_exit, ops.dp_reduce_scatter, ops.dp_reduce_scatterv)
    )


def run_entry(
    original: Callable[..., Any],
    hidden_states: Any,
    residual: torch.Tensor | None,
    forward_batch: Any,
    norm: Any,
    **given: Any,
) -> Any:
    """prepare._run_entry: the way into a stage, which completes what the one before it has left."""
    if (
        residual is not None
        and exit_norm.wanted()
        and _leaves_to_us(hidden_states)
        and _adds_and_norms(given)
    ):
        addition = given.get("post_residual_addition")
        finished = exit_norm.finish(hidden_states.partial, residual, norm, addition)
        if finished is not None:
            return finished
    return original(hidden_states, residual, forward_batch, norm, **given)


def _adds_and_norms(given: dict[str, Any]) -> bool:
    """Whether a stage begins with the residual's sum and a norm, and no more; alike on all ranks."""
    from sglang.srt.layers.layer_boundary import prepare
    from sglang.srt.layers.layer_boundary.residual.add_norm import NORM_QUANT_READOUT, NORM_READOUT, PLAIN_ADD

    step, read = given["step"], given.get("read", NORM_READOUT)
    return (
        isinstance(step, partial)
        and step.func is prepare._update_read
        and step.keywords.get("pre_move") is None
        and not step.keywords.get("read_gathers")
        and not step.keywords.get("read_gather_indices")
        and step.keywords.get("read") is read
        and (read is NORM_QUANT_READOUT or read is NORM_READOUT)
        and given.get("update", PLAIN_ADD) is PLAIN_ADD
        and given.get("expected_sum") is None
        and not given.get("quant_format")
    )


def hooks() -> list[Hook]:
    """What is hooked."""
    gather = ("global_tokens", "local_tokens", "forward_batch", "cp_shard_counts")
    step = ("local_hidden_states", "hidden_states", "forward_batch")
    entry = ("hidden_states", "residual", "forward_batch", "norm")
    return [
        Hook(f"{DP_ATTENTION}.initialize_dp_attention", "after", after_initialize, ("server_args",)),
        Hook(f"{DP_ATTENTION}.dp_gather_partial", "around", boundary.gather_partial, gather),
        Hook(f"{DP_ATTENTION}.dp_gather_replicate", "around", boundary.gather_replicate, gather),
        Hook(
            f"{_BOUNDARY}.exit._select_dp_reduce_scatter",
            "around",
            select_dp_reduce_scatter,
            ("forward_batch", "may_reduce_scatter", "reduce_scatterv"),
        ),
        Hook(f"{_BOUNDARY}.ops.dp_reduce_scatterv", "around", dp_reduce_scatterv, step),
        Hook(
            f"{_BOUNDARY}.prepare._dp_gather_sum_read",
            "around",
            dp_gather_sum_read,
            (*entry, "cache", "gathers_residual", "places_cp_shards", "read", "update"),
        ),
        Hook(
            f"{_BOUNDARY}.prepare._run_entry",
            "around",
            run_entry,
            (
                *entry,
                "step",
                "is_plain_add",
                "carried_fusions",
                "carried_read_fusions",
                "read",
                "expected_sum",
                "completed_step",
                "pending",
                "written_step",
                "written",
                "update",
                "read_context",
                "**call",
            ),
        ),
        *hooks_shared.hooks(),
    ]
