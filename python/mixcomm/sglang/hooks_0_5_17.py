"""SGLang 0.5.17: boundaries in layers/communicator.py; MAX_LEN padding in decode graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import boundary, exit_norm, hooks_shared, link
from .hooks_shared import DP_ATTENTION
from .versions import Hook

_COMMUNICATOR = "sglang.srt.layers.communicator"

# On a LayerCommunicator: its FFN was told to leave its sum to the exit; and to an exit that only we have.
_LEFT = "_mixcomm_sum_is_left"
_OWES = "_mixcomm_owes_sum"

# Models whose loop hands one layer's rows to the next as they are, and whose layers say which is the last.
_PASS_ROWS_ON = ("Qwen3MoeForCausalLM",)
# Options by which something else reads the rows between layers, or a layer may be compiled without the next.
_READ_ROWS = (
    "speculative_algorithm",
    "forward_hooks",
    "debug_tensor_dump_output_folder",
    "enable_torch_compile",
)


def exit_norm_left(server_args: Any, model_config: Any) -> str | None:
    """Why exits of this deployment are without the next layer's residual and norm; None: they may have it."""
    from sglang.srt.runtime_context import get_parallel

    names = getattr(getattr(model_config, "hf_config", None), "architectures", None) or ["no architecture"]
    if not all(name in _PASS_ROWS_ON for name in names):
        known = ", ".join(_PASS_ROWS_ON)
        return f"{', '.join(names)}: only {known} is known to leave rows alone between layers"
    for option in _READ_ROWS:
        if getattr(server_args, option, None):
            return f"--{option.replace('_', '-')}"
    return "pipeline parallelism" if get_parallel().pp_size > 1 else None


def after_initialize(result: Any, server_args: Any, model_config: Any) -> None:
    """initialize_dp_attention(server_args, model_config): SGLang's groups are there."""
    link.make(server_args, hooks(), exit_norm_left(server_args, model_config))


def should_use_reduce_scatter(original: Callable[..., bool], self: Any, forward_batch: Any) -> bool:
    """LayerCommunicator.should_use_reduce_scatter: whether the FFN leaves its sum; now also with SUM_LEN."""
    from sglang.srt.layers.communicator import CommunicateSummableTensorPairFn

    scatters = (
        self._communicate_summable_tensor_pair_fn is CommunicateSummableTensorPairFn._scatter_hidden_states
    )
    setattr(self, _OWES, False)
    if original(self, forward_batch):
        setattr(self, _LEFT, scatters)
        return True
    setattr(self, _LEFT, False)
    if not self.allow_reduce_scatter or not scatters or forward_batch.dp_padding_mode.is_max_len():
        return False
    fused = boundary.exit_is_fused("exit with SUM_LEN padding")
    setattr(self, _OWES, fused)
    setattr(self, _LEFT, fused)
    return fused


def postprocess_layer(
    original: Callable[..., Any],
    self: Any,
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    forward_batch: Any,
) -> Any:
    """LayerCommunicator.postprocess_layer: the exit itself, or what leaves it to the next layer."""
    owes, left, mine = getattr(self, _OWES, False), getattr(self, _LEFT, False), link.current()
    setattr(self, _OWES, False)
    setattr(self, _LEFT, False)
    if mine is None:
        return original(self, hidden_states, residual, forward_batch)

    def plain() -> Any:
        if not owes:
            return original(self, hidden_states, residual, forward_batch)
        from sglang.srt.layers.dp_attention import get_local_dp_buffer
        from sglang.srt.runtime_context import get_parallel

        output = get_local_dp_buffer(get_parallel().attn_tp_group)
        boundary.exit_with_counts(
            output, hidden_states, "exit with SUM_LEN padding", boundary.all_reduce_and_cut
        )
        return output, residual

    if left and residual is not None and exit_norm.wait(hidden_states, self.is_last_layer, plain):
        return hidden_states, residual
    return plain()


def prepare_attn(
    original: Callable[..., Any],
    self: Any,
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    forward_batch: Any,
    quant_format: str = "",
    post_residual_addition: torch.Tensor | None = None,
) -> Any:
    """LayerCommunicator.prepare_attn: the way into attention, with the exit that waits for it."""
    from sglang.srt.layers.communicator import CommunicateSimpleFn

    waiting = exit_norm.taken(hidden_states, residual)
    if waiting is not None:
        if (
            not quant_format
            and self.qkv_latent_func is None
            and self._communicate_simple_fn is CommunicateSimpleFn._trivial
        ):
            finished = exit_norm.finish(
                waiting.all_rows, residual, self.input_layernorm, post_residual_addition
            )
            if finished is not None:
                return finished
        hidden_states, residual = waiting.plain()
    return original(self, hidden_states, residual, forward_batch, quant_format, post_residual_addition)


def scatter_hidden_states(
    original: Callable[..., Any],
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    forward_batch: Any,
    context: Any,
    allow_reduce_scatter: bool = False,
) -> Any:
    """CommunicateSummableTensorPairFn._scatter_hidden_states, where it calls reduce_scatterv itself."""
    from sglang.srt.layers.dp_attention import get_local_dp_buffer
    from sglang.srt.layers.moe import should_use_dp_reduce_scatterv

    mine = link.current()
    if mine is not None and should_use_dp_reduce_scatterv() and boundary.exit_is_fused("reduce_scatterv"):
        rows = boundary.row_counts()
        output = get_local_dp_buffer(mine.tp_group)

        def stock(out: torch.Tensor, all_rows: torch.Tensor) -> None:
            mine.tp_group.reduce_scatterv(all_rows, output=out, sizes=rows)

        boundary.exit_with_counts(output, hidden_states, "reduce_scatterv", stock)
        return output, residual
    return original(
        hidden_states, residual, forward_batch, context, allow_reduce_scatter=allow_reduce_scatter
    )


def gather_hidden_states_and_residual(
    original: Callable[..., Any],
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    forward_batch: Any,
    layernorm: Any,
    context: Any,
    *,
    residual_input_mode: Any,
) -> Any:
    """_gather_hidden_states_and_residual of the class, where the gather owes attention's TP sum."""
    from sglang.srt.layers.communicator import ScatterMode, get_attn_tp_context

    if (
        not get_attn_tp_context().input_scattered
        and context.attn_dp_size != 1
        and context.attn_tp_size > 1
        and not context.force_layernorm_before_dp_gather
        and residual_input_mode != ScatterMode.SCATTERED
    ):
        entered = boundary.gather_sum_residual(hidden_states, residual, forward_batch, layernorm)
        if entered is not None:
            done = entered.normed or entered.rows.shape[0] == 0
            return (entered.rows if done else layernorm(entered.rows)), entered.residual
    return original(
        hidden_states, residual, forward_batch, layernorm, context, residual_input_mode=residual_input_mode
    )


def hooks() -> list[Hook]:
    """What is hooked."""
    exits = f"{_COMMUNICATOR}.CommunicateSummableTensorPairFn"
    entries = f"{_COMMUNICATOR}.CommunicateWithAllReduceAndLayerNormFn"
    layer = ("hidden_states", "residual", "forward_batch")
    return [
        Hook(
            f"{DP_ATTENTION}.initialize_dp_attention",
            "after",
            after_initialize,
            ("server_args", "model_config"),
        ),
        Hook(
            f"{DP_ATTENTION}.dp_gather_partial",
            "around",
            boundary.gather_partial,
            ("global_tokens", "local_tokens", "forward_batch"),
        ),
        Hook(
            f"{DP_ATTENTION}.dp_gather_replicate",
            "around",
            boundary.gather_replicate,
            ("global_tokens", "local_tokens", "forward_batch"),
        ),
        Hook(
            f"{_COMMUNICATOR}.LayerCommunicator.should_use_reduce_scatter",
            "around",
            should_use_reduce_scatter,
            ("self", "forward_batch"),
        ),
        Hook(
            f"{_COMMUNICATOR}.LayerCommunicator.postprocess_layer",
            "around",
            postprocess_layer,
            ("self", *layer),
        ),
        Hook(
            f"{_COMMUNICATOR}.LayerCommunicator.prepare_attn",
            "around",
            prepare_attn,
            ("self", *layer, "quant_format", "post_residual_addition"),
        ),
        Hook(
            f"{exits}._scatter_hidden_states",
            "around",
            scatter_hidden_states,
            (*layer, "context", "allow_reduce_scatter"),
        ),
        Hook(
            f"{entries}._gather_hidden_states_and_residual",
            "around",
            gather_hidden_states_and_residual,
            (*layer, "layernorm", "context", "residual_input_mode"),
        ),
        *hooks_shared.hooks(),
    ]
