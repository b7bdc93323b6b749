"""What differs between SGLang's releases, for the cases: which of its functions are its boundaries."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch


class Release23:
    """0.5.23: layers/layer_boundary."""

    def __init__(self, tp: int) -> None:
        self.tp = tp

    def set_sizes(self, batch: Any, d: int) -> None:
        """As in front of each forward."""
        from sglang.srt.layers.dp_attention import set_dp_buffer_len_from_batch

        set_dp_buffer_len_from_batch(batch)

    def exit(self, batch: Any, given: torch.Tensor, reduces_first: list[bool]) -> torch.Tensor:
        """The FFN's exit; reduces_first gets whether the FFN's sum was made in front of it."""
        from sglang.srt.layers.layer_boundary import exit as boundary_exit
        from sglang.srt.layers.layer_boundary import ops
        from sglang.srt.runtime_context import get_parallel

        step = boundary_exit._select_dp_reduce_scatter(batch, may_reduce_scatter=True, reduce_scatterv=False)
        reduces_first.append(step is None)
        if step is None:
            return ops.all_reduce_to_dp_local(get_parallel().tp_group, batch, given)
        return ops.to_dp_local(step, batch, given)

    def sum_left_by_an_ffn_that_may_not(self, batch: Any) -> bool:
        """Whether an exit would pay a sum that the FFN has made itself."""
        from sglang.srt.layers.layer_boundary import exit as boundary_exit

        step = boundary_exit._select_dp_reduce_scatter(batch, may_reduce_scatter=False, reduce_scatterv=False)
        return step is not None

    def reduce_scatterv(self, batch: Any, given: torch.Tensor) -> torch.Tensor:
        """The exit where EP is attention DP."""
        from sglang.srt.layers.layer_boundary import exit as boundary_exit
        from sglang.srt.layers.layer_boundary import ops

        step = boundary_exit._select_dp_reduce_scatter(batch, may_reduce_scatter=True, reduce_scatterv=True)
        return ops.to_dp_local(step, batch, given)

    def entry(
        self, batch: Any, hidden: torch.Tensor, residual: torch.Tensor, norm: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The way into the FFN."""
        from sglang.srt.layers.layer_boundary import prepare

        if self.tp > 1:
            return prepare._dp_gather_sum_read(hidden, residual, batch, norm, gathers_residual=False)
        return prepare._reduce_update_read_dp_gather(
            hidden, residual, batch, norm, gathers_residual=False, reduces_attention_tp=False
        )

    def draft(self) -> AbstractContextManager[None]:
        """Within it, the TP group is a draft model's."""
        from sglang.srt.distributed.parallel_state import patch_tensor_parallel_group
        from sglang.srt.runtime_context import get_parallel

        return patch_tensor_parallel_group(get_parallel().attn_tp_group, owns_attention=True)


class Release17:
    """0.5.17: layers/communicator.py."""

    def __init__(self, tp: int) -> None:
        self.made: dict[bool, Any] = {}

    def layer(self, norm: Any = None, allow_reduce_scatter: bool = True) -> Any:
        """The communicator of a layer with experts, between two of its kind."""
        from sglang.srt.layers.communicator import LayerCommunicator, LayerScatterModes

        modes = LayerScatterModes.init_new(
            layer_id=1,
            num_layers=4,
            is_layer_sparse=True,
            is_previous_layer_sparse=True,
            is_next_layer_sparse=True,
        )
        return LayerCommunicator(
            layer_scatter_modes=modes,
            input_layernorm=norm,
            post_attention_layernorm=norm,
            allow_reduce_scatter=allow_reduce_scatter,
        )

    def set_sizes(self, batch: Any, d: int) -> None:
        """As in front of each forward."""
        from sglang.srt.layers.dp_attention import set_dp_buffer_len

        counts = batch.global_num_tokens_cpu
        set_dp_buffer_len(batch.global_dp_buffer_len, counts[d], batch.dp_padding_mode.is_max_len(), counts)

    def exit(self, batch: Any, given: torch.Tensor, reduces_first: list[bool]) -> torch.Tensor:
        """The FFN's exit; reduces_first gets whether the FFN's sum was made in front of it."""
        from sglang.srt.runtime_context import get_parallel

        layer = self.layer()
        left = layer.should_use_reduce_scatter(batch)
        reduces_first.append(not left)
        if not left:
            given = get_parallel().tp_group.all_reduce(given)
        return layer.postprocess_layer(given, None, batch)[0]

    def sum_left_by_an_ffn_that_may_not(self, batch: Any) -> bool:
        """Whether an exit would pay a sum that the FFN has made itself."""
        return self.layer(allow_reduce_scatter=False).should_use_reduce_scatter(batch)

    def reduce_scatterv(self, batch: Any, given: torch.Tensor) -> torch.Tensor:
        """The exit where EP is attention DP."""
        from sglang.srt.runtime_context import get_parallel

        with get_parallel().override(moe_ep_size=get_parallel().attn_dp_size):
            layer = self.layer()
            assert layer.should_use_reduce_scatter(batch)
            return layer.postprocess_layer(given, None, batch)[0]

    def entry(
        self, batch: Any, hidden: torch.Tensor, residual: torch.Tensor, norm: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The way into the FFN."""
        return self.layer(norm).prepare_mlp(hidden, residual, batch)

    def draft(self) -> AbstractContextManager[None]:
        """Within it, the TP group is a draft model's."""
        from sglang.srt.runtime_context import get_parallel

        return get_parallel().override(tp_group=get_parallel().attn_tp_group)


def release(tp: int) -> Any:
    """That of the SGLang that is there."""
    import sglang

    return (Release17 if sglang.__version__ == "0.5.17" else Release23)(tp)
