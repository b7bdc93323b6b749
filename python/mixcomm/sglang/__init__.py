"""SGLang's attention TP x DP on mixcomm: a plug-in of SGLang, off unless SGLANG_USE_MIXED_COMM is 1 or true.

SGLang finds ``activate`` by its entry point (group sglang.srt.plugins) in each of its processes.
docs/sglang.md says what is fused, when it stays out of the way, and what the log lines mean.
"""

from __future__ import annotations

from .activation import activate
from .tally import counters

__all__ = ["activate", "counters"]
