"""Epilogues: residual, norm and FP8 behind the sums, against numpy and ml_dtypes, bit by bit."""

import ml_dtypes
import numpy as np
import pytest
from oracle import DTYPES, expected, in_rows, out_rows, random_inputs, same_bits

import mixcomm

HIDDEN = 300


def sum_of_squares(row):
    """The one order: groups of 8 columns into 128 accumulators, which are folded."""
    squares = np.zeros(-(-row.size // 8) * 8, np.float32)
    squares[: row.size] = row * row
    q = squares.reshape(-1, 8)
    groups = ((q[:, 0] + q[:, 1]) + (q[:, 2] + q[:, 3])) + ((q[:, 4] + q[:, 5]) + (q[:, 6] + q[:, 7]))
    accumulators = np.zeros(128, np.float32)
    for index, group in enumerate(groups):
        accumulators[index % 128] += group
    while accumulators.size > 1:
        half = accumulators.size // 2
        accumulators = accumulators[:half] + accumulators[half:]
    return accumulators[0]


def normed(rows, weight, eps, plus_one):
    """Of rounded rows, in fp32, rounded once."""
    one = np.float32(1)
    factor = one + weight.astype(np.float32) if plus_one else weight.astype(np.float32)
    result = np.empty_like(rows)
    for i, row in enumerate(rows.astype(np.float32)):
        inverse = one / np.sqrt(sum_of_squares(row) / np.float32(row.size) + np.float32(eps))
        result[i] = (row * inverse * factor).astype(rows.dtype)
    return result


def quantized(rows, columns):
    """FP8 with a scale for each `columns` columns."""
    codes = np.empty(rows.shape, ml_dtypes.float8_e4m3fn)
    scales = np.empty((rows.shape[0], -(-rows.shape[1] // columns)), np.float32)
    for group in range(scales.shape[1]):
        part = rows[:, group * columns : (group + 1) * columns].astype(np.float32)
        most = np.maximum(np.abs(part).max(axis=1), np.float32(1e-10))
        scales[:, group] = most / np.float32(448)
        codes[:, group * columns : (group + 1) * columns] = (part / scales[:, group : group + 1]).astype(
            ml_dtypes.float8_e4m3fn
        )
    return codes, scales


def residual_of(d, rows, dtype):
    """That of DP rank d, the same on its TP ranks."""
    return np.random.default_rng(1000 + d).standard_normal((rows, HIDDEN)).astype(dtype)


def in_float32(inputs, residuals, op, tp, rows, rank):
    """The rounded sums with the residual, per block of the output."""
    wide = [each.astype(np.float32) for each in inputs]
    sums = expected(op, wide, tp, rows, rank)
    d = rank // tp
    added = np.concatenate(residuals) if "gather" in op else residuals[d]
    return (sums + added.astype(np.float32)).astype(inputs[0].dtype)


@pytest.mark.parametrize("op", mixcomm.OPERATIONS)
@pytest.mark.parametrize("name", DTYPES)
def test_add_norm_and_fp8(op, name):
    """Uneven and empty rows; both algorithms; into given arrays and new ones."""
    tp, rows = 2, [3, 0]
    world = tp * len(rows)
    inputs = random_inputs(op, name, rows, tp, HIDDEN, np.random.default_rng(3))
    residuals = [residual_of(d, count, DTYPES[name]) for d, count in enumerate(rows)]
    weight = np.random.default_rng(4).standard_normal(HIDDEN).astype(DTYPES[name])

    def rank(bootstrap):
        r, d = bootstrap.rank, bootstrap.rank // tp
        count = out_rows(op, rows, d)
        assert inputs[r].shape[0] == in_rows(op, rows, d)
        sums = in_float32(inputs, residuals, op, tp, rows, r)
        own = sum(rows[:d]) if "gather" in op else 0
        with mixcomm.Communicator(bootstrap, tp=tp) as communicator:
            for algorithm in ("one_shot", "two_shot"):
                arguments = (inputs[r],) if op == "all_reduce" else (inputs[r], rows)

                def run(epilogue, arguments=arguments, algorithm=algorithm, **more):
                    return communicator.run(op, *arguments, algorithm=algorithm, epilogue=epilogue, **more)

                kept = residuals[d].copy()
                got = run(mixcomm.Epilogue(residual=kept, residual_out=kept, weight=weight, eps=1e-5))
                same_bits(got, normed(sums, weight, 1e-5, False))
                same_bits(kept, sums[own : own + rows[d]])
                same_bits(run(mixcomm.Epilogue(residual=residuals[d])), sums)

                epilogue = mixcomm.Epilogue(
                    residual=residuals[d], weight=weight, weight_plus_one=True, quantize="per_128_columns"
                )
                epilogue.scales = np.empty((count, epilogue.scales_per_row(HIDDEN)), np.float32)
                codes, scales = quantized(normed(sums, weight, 1e-6, True), 128)
                out = np.empty((count, HIDDEN), ml_dtypes.float8_e4m3fn)
                assert run(epilogue, out=out) is out
                same_bits(out.view(np.uint8), codes.view(np.uint8))
                same_bits(epilogue.scales, scales)
                same_bits(run(epilogue), codes.view(np.uint8))

                # The steps by themselves give the same.
                alone = np.empty_like(out)
                rest = mixcomm.Epilogue(
                    weight=weight,
                    weight_plus_one=True,
                    quantize="per_token",
                    scales=np.empty((count, 1), np.float32),
                )
                communicator.apply(sums, rest, out=alone)
                codes, scales = quantized(normed(sums, weight, 1e-6, True), HIDDEN)
                same_bits(alone.view(np.uint8), codes.view(np.uint8))
                same_bits(rest.scales, scales)

    mixcomm.run_threads(world, rank)


def test_what_is_refused():
    """With the values, and what to pass instead."""

    def rank(bootstrap):
        with mixcomm.Communicator(bootstrap, tp=2) as communicator:
            x = np.ones((2, 256), np.float32)

            def refused(part, epilogue, **more):
                with pytest.raises(mixcomm.InvalidArgument, match=part):
                    communicator.all_reduce(x, epilogue=epilogue, **more)

            refused("'residual' is 3 x 256", mixcomm.Epilogue(residual=np.ones((3, 256), np.float32)))
            refused("'weight' is 1 x 255", mixcomm.Epilogue(weight=np.ones(255, np.float32)))
            refused("no quantization is named 'fp4'", mixcomm.Epilogue(quantize="fp4"))
            per_token = mixcomm.Epilogue(quantize="per_token", scales=np.ones(2, np.float32))
            refused("holds float8_e4m3fn, or its bits as uint8", per_token, out=np.empty_like(x))
            wrong = mixcomm.Epilogue(quantize="per_128_columns", scales=np.ones((2, 3), np.float32))
            refused("'scales' has 6 elements of fp32; quantize per_128_columns makes 2 rows x 2", wrong)
            fixed = mixcomm.Epilogue(quantize="fixed", fixed_scale=np.ones(2, np.float32))
            refused("'fixed_scale' has 2 elements", fixed)
            assert (communicator.all_reduce(x) == 2).all()

    mixcomm.run_threads(2, rank)
