"""Whether a call is fused: decided only by what all ranks of the call see alike."""

from __future__ import annotations

from typing import Any

import torch

from . import tally
from .link import Link

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def row_counts(forward_batch: Any = None) -> list[int] | None:
    """The rows of each DP rank in the buffer with all rows, on the host, equal on all ranks.

    SGLang pads them before the forward, and has the device's counts agree. Gathers of logits go by counts of
    their own, which their metadata has; in a captured graph they are those of the forward.
    """
    from sglang.srt.layers.dp_attention import get_dp_global_num_tokens

    if forward_batch is not None and not hasattr(forward_batch, "global_num_tokens_cpu"):
        logits = getattr(forward_batch, "global_num_tokens_for_logprob_cpu", None)
        if logits is not None:
            return [int(count) for count in logits]
    return get_dp_global_num_tokens()


def left_because(
    link: Link, rows: list[int] | None, total_rows: int, hidden: int, dtype: torch.dtype
) -> str | None:
    """Why this call is left to SGLang; None: it is fused."""
    from sglang.srt.layers.dp_attention import is_dp_gatherv_active
    from sglang.srt.runtime_context import get_parallel

    if get_parallel().tp_group is not link.tp_group:
        return tally.OTHER_GROUP
    if is_dp_gatherv_active():
        return tally.GATHERV
    if dtype not in _DTYPES:
        return tally.OTHER_DTYPE
    if rows is None or len(rows) != link.dp:
        return tally.NO_COUNTS
    if sum(rows) != total_rows:
        return tally.OTHER_ROWS
    if total_rows == 0:
        return tally.NO_ROWS
    if total_rows * hidden * dtype.itemsize > link.asked.max_bytes:
        return tally.TOO_LARGE
    return None


def exit_left_because(link: Link, rows: list[int] | None) -> str | None:
    """The same of an FFN's exit, before the FFN runs, which leaves its sum only to an exit that is fused."""
    from sglang.srt.layers.dp_attention import get_dp_dtype, get_dp_hidden_size, get_global_dp_buffer_len

    return left_because(link, rows, get_global_dp_buffer_len(), get_dp_hidden_size(), get_dp_dtype())
