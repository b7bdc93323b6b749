"""Which calls were fused, and which were left to SGLang, and why."""

from __future__ import annotations

import collections
import logging

logger = logging.getLogger("mixcomm.sglang")

# Why a call is left to SGLang: only what all ranks see alike may decide.
OTHER_GROUP = "another TP group (a draft model's)"
CONTEXT_SHARDS = "shards of context parallelism"
GATHERV = "SGLANG_DP_USE_GATHERV"
OTHER_DTYPE = "another dtype than bf16, fp16, fp32"
NO_COUNTS = "no row count for each DP rank"
OTHER_ROWS = "the row counts do not sum up to the buffer"
TOO_LARGE = "more bytes than SGLANG_MIXED_COMM_MAX_BYTES"
NO_ROWS = "no rows on any rank"
OTHER_NORM = "another norm than SGLang's RMSNorm or GemmaRMSNorm, or of another dtype"
LAST_LAYER = "the last layer's, whose norm is the model's"

FUSED = "fused"

_counts: collections.Counter[tuple[str, str]] = collections.Counter()
_said: set[tuple[str, str]] = set()


def count(call: str, what: str = FUSED) -> None:
    """Counts one call; the first that is left for a reason is said in the log.

    What a CUDA graph captures is counted when it is captured, not when it is replayed; compiled code not at
    all.
    """
    import torch

    if torch.compiler.is_compiling():
        return
    key = (call, what)
    _counts[key] += 1
    if what != FUSED and key not in _said:
        _said.add(key)
        logger.info("mixcomm: %s left to SGLang: %s (said once)", call, what)


def counters() -> dict[str, dict[str, int]]:
    """For each call of SGLang's: how many were fused, and how many left, by reason; of this process.

    Captured calls count once, when their CUDA graph is captured.
    """
    found: dict[str, dict[str, int]] = {}
    for (call, what), number in sorted(_counts.items()):
        found.setdefault(call, {})[what] = number
    return found


def summary() -> str:
    """The counters in one line."""
    parts = (
        f"{call}: "
        + ", ".join(
            f"{number} {what}" if what == FUSED else f"{number} left ({what})" for what, number in by.items()
        )
        for call, by in counters().items()
    )
    return "; ".join(parts) or "no calls yet"


def reset() -> None:
    """Forgets all of it; for tests."""
    _counts.clear()
    _said.clear()
