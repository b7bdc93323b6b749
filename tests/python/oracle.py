"""What the operations should give, in numpy, by itself: ordered sums in fp32, rounded once."""

from __future__ import annotations

import ml_dtypes
import numpy as np

DTYPES = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
GRIDS = [(tp, dp) for tp in range(1, 9) for dp in range(1, 9) if tp * dp <= 8]

ROWS = {"even": lambda dp: [3] * dp, "uneven": lambda dp: [(5, 0, 1, 2, 7, 0, 3, 1)[d] for d in range(dp)]}


def in_rows(op: str, rows: list[int], d: int) -> int:
    """The rows of the input of DP rank d."""
    return rows[d] if op in ("all_reduce", "all_gather", "all_reduce_all_gather") else sum(rows)


def out_rows(op: str, rows: list[int], d: int) -> int:
    """The rows of the output of DP rank d."""
    if op == "all_reduce":
        return rows[d]
    return rows[d] if "scatter" in op else sum(rows)


def random_inputs(op: str, name: str, rows: list[int], tp: int, hidden: int, random) -> list[np.ndarray]:
    """The input of each rank: floats of many magnitudes, so that the order of the sums shows."""
    shapes = [(in_rows(op, rows, r // tp), hidden) for r in range(tp * len(rows))]
    return [
        (random.standard_normal(shape) * 2.0 ** random.integers(-4, 5)).astype(DTYPES[name])
        for shape in shapes
    ]


def blocks(array: np.ndarray, rows: list[int]) -> list[np.ndarray]:
    """The block of each DP rank."""
    ends = np.cumsum(rows)
    return [array[end - count : end] for end, count in zip(ends, rows, strict=True)]


def ordered_sum(terms: list[np.ndarray]) -> np.ndarray:
    """In fp32, neighbours first: ((0 + 1) + (2 + 3)) + ... A single term keeps its bits."""
    if len(terms) == 1:
        return terms[0].astype(np.float32)
    left = 2 ** ((len(terms) - 1).bit_length() - 1)
    return ordered_sum(terms[:left]) + ordered_sum(terms[left:])


def expected(op: str, inputs: list[np.ndarray], tp: int, rows: list[int], rank: int) -> np.ndarray:
    """The output of ``rank``, from the inputs of all ranks."""
    dp = len(rows)
    t, d = rank % tp, rank // tp
    dtype = inputs[0].dtype

    def over_tp(each: int) -> np.ndarray:
        return ordered_sum([inputs[each * tp + i] for i in range(tp)])

    if op == "all_reduce":
        return over_tp(d).astype(dtype)
    if op == "all_gather":
        return np.concatenate([inputs[each * tp + t] for each in range(dp)])
    if op == "all_reduce_all_gather":
        return np.concatenate([over_tp(each).astype(dtype) for each in range(dp)])
    if op == "reduce_scatter":
        return ordered_sum([blocks(inputs[each * tp + t], rows)[d] for each in range(dp)]).astype(dtype)
    return ordered_sum([blocks(over_tp(each), rows)[d] for each in range(dp)]).astype(dtype)


def bits(array: np.ndarray) -> np.ndarray:
    """The elements as they lie in memory, so that equal means the same bits."""
    return np.ascontiguousarray(array).view(np.uint16 if array.dtype.itemsize == 2 else np.uint32)


def same_bits(got: np.ndarray, wanted: np.ndarray) -> None:
    """Fails with the first place that differs."""
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    different = np.argwhere(bits(got) != bits(wanted))
    assert different.size == 0, f"{len(different)} of {got.size} elements differ, the first at {different[0]}"
