"""What is hooked alike in every release that is known."""

from __future__ import annotations

from . import boundary, link
from .versions import Hook

DP_ATTENTION = "sglang.srt.layers.dp_attention"


def hooks() -> list[Hook]:
    """The exit with MAX_LEN padding, and what looks before results leave."""
    return [
        Hook(
            f"{DP_ATTENTION}.dp_reduce_scatter_tensor",
            "around",
            boundary.reduce_scatter_tensor,
            ("output", "input"),
        ),
        Hook(
            "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer.stream_output",
            "before",
            link.before_output,
            ("self", "reqs", "return_logprob", "skip_req"),
        ),
    ]
