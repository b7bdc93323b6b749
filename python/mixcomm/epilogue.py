"""What an operation does with the rows that it has summed: residual, RMSNorm and FP8."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from . import arrays
from .errors import Unsupported

# Columns that share a scale with quantize="per_128_columns".
SCALE_COLUMNS = 128


@dataclass
class Epilogue:
    """The steps behind a sum, each left out where what it needs is None; all in fp32, T is the input's dtype.

    ::

        x = sum + residual             the ordered sum, not rounded, and the residual last
        r = T(x)                       what the norm reads, and residual_out gets
        y = T((r * (1 / sqrt(mean of r * r + eps))) * w)       w is weight, or 1 + weight
        q = E4M3(y / scale)            scale = max(|y|, 1e-10) / 448 of a row or 128 columns; or fixed_scale

    ``out`` is y, or r without a norm, or q. Results are the same bits on every rank, with every algorithm,
    and as the operation with ``residual`` alone gives, followed by Communicator.apply of the rest.

    residual, residual_out: rows[d] x hidden, of T: this DP rank's rows, the same on its TP ranks;
    residual_out may be residual. weight: hidden, of T. quantize: "none", "per_token", "per_128_columns"
    (float32 scales of ``out``, by which it is to be multiplied, in ``scales``: rows of out x
    scales_per_row()) or "fixed" (by ``fixed_scale``, one float32 in an array). FP8 is torch.float8_e4m3fn,
    float8_e4m3fn of ml_dtypes, or its bits as uint8: E4M3, to the nearest, ties to even, at most 448, NaN as
    0x7F.

    All ranks pass the same steps, eps and quantize; else Disagreement.
    """

    residual: Any = None
    residual_out: Any = None
    weight: Any = None
    eps: float = 1e-6
    weight_plus_one: bool = False
    quantize: str = "none"
    scales: Any = None
    fixed_scale: Any = None

    def scales_per_row(self, hidden: int) -> int:
        """How many scales a row of ``hidden`` columns has in ``scales``."""
        if self.quantize == "per_token":
            return 1
        return -(-hidden // SCALE_COLUMNS) if self.quantize == "per_128_columns" else 0


def quantizes(epilogue: Epilogue | None) -> bool:
    """Whether the result is FP8."""
    return epilogue is not None and epilogue.quantize != "none"


def empty_result(array: Any, rows: int, epilogue: Epilogue | None) -> Any:
    """A new array for the result of an operation on ``array``; FP8 in numpy as uint8."""
    if not quantizes(epilogue):
        return arrays.empty_like(array, rows)
    shape = (rows, *array.shape[1:])
    if arrays.is_torch(array):
        torch = sys.modules["torch"]
        return array.new_empty(shape, dtype=torch.float8_e4m3fn)
    if type(array).__module__.partition(".")[0] == "numpy":
        import numpy as np

        return np.empty(shape, np.uint8)  # which has no FP8 of its own
    raise Unsupported(f"out= is needed for FP8 results beside arrays of {type(array).__module__}")


def codes_of(out: Any, epilogue: Epilogue) -> Any:
    """The array to write to: FP8 numbers as their bits, which arrays are read as in every framework."""
    if not quantizes(epilogue):
        return out
    if arrays.is_torch(out):
        torch = sys.modules["torch"]
        return out.view(torch.uint8) if out.dtype == torch.float8_e4m3fn else out
    if getattr(getattr(out, "dtype", None), "name", "") == "float8_e4m3fn":
        return out.view("uint8")
    return out
