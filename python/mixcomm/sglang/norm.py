"""SGLang's norms that a fused operation computes by itself, with the residual in front of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_MODULE = "sglang.srt.layers.layernorm"
# What an RMSNorm of SGLang's must have for its result to be x / rms(x) * weight, in fp32, rounded once.
_USUAL = {
    "has_weight": True,
    "cast_x_before_out_mul": False,
    "fp32_residual": False,
    "override_orig_dtype": None,
    "variance_size_override": None,
    "x_pad_to_multiple": 0,
}


@dataclass(frozen=True)
class Norm:
    """y = x / sqrt(mean(x^2) + eps) * weight, or (1 + weight)."""

    weight: torch.Tensor
    eps: float
    plus_one: bool


def keeps_its_input(norm: Any) -> bool:
    """Whether this norm leaves its input as it is where it is not given a residual."""
    kind = type(norm)
    return kind.__name__ in ("RMSNorm", "GemmaRMSNorm") and kind.__module__ == _MODULE


def fused_norm(norm: Any, dtype: torch.dtype) -> Norm | None:
    """The norm as an operation has it; None where SGLang's own is another one. Alike on all ranks."""
    if not keeps_its_input(norm) or norm.weight.dtype != dtype:
        return None
    if type(norm).__name__ == "GemmaRMSNorm":
        return Norm(norm.weight.data, norm.variance_epsilon, plus_one=True)
    if any(getattr(norm, name, value) != value for name, value in _USUAL.items()):
        return None
    return Norm(norm.weight.data, norm.variance_epsilon, plus_one=False)
