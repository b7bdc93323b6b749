"""Every operation on every grid up to 8 ranks, in every dtype, against numpy, bit by bit."""

import numpy as np
import pytest
from oracle import DTYPES, GRIDS, ROWS, expected, random_inputs, same_bits

import mixcomm


@pytest.mark.parametrize("spread", ROWS)
@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_against_numpy(tp, dp, spread):
    """New inputs for each call."""
    rows = ROWS[spread](dp)
    world = tp * dp
    cases = [(op, name) for op in mixcomm.OPERATIONS for name in DTYPES]
    random = np.random.default_rng(world * 100 + tp)
    inputs = {(op, name): random_inputs(op, name, rows, tp, 17, random) for op, name in cases}

    def rank(bootstrap):
        r = bootstrap.rank
        with mixcomm.Communicator(bootstrap, tp=tp, dp=dp) as communicator:
            for op, name in cases:
                mine = inputs[op, name][r]
                counts = 3 if spread == "even" else rows
                got = (
                    communicator.run(op, mine, counts)
                    if op != "all_reduce"
                    else communicator.all_reduce(mine)
                )
                same_bits(got, expected(op, inputs[op, name], tp, rows, r))

    mixcomm.run_threads(world, rank)


@pytest.mark.parametrize("algorithm", ["one_shot", "two_shot", "composed"])
def test_algorithms_and_inferred_rows(algorithm):
    """algorithm= reaches the library, and rows are as many as this rank's where none are given."""
    random = np.random.default_rng(5)
    gather = [random.integers(-4, 5, (4, 33)).astype(np.float32) for _ in range(4)]
    scatter = [random.integers(-4, 5, (8, 33)).astype(np.float32) for _ in range(4)]

    def rank(bootstrap):
        with mixcomm.Communicator(bootstrap, tp=2, dp=2, algorithm=algorithm) as communicator:
            r = bootstrap.rank
            got = communicator.all_reduce_all_gather(gather[r])
            same_bits(got, expected("all_reduce_all_gather", gather, 2, [4, 4], r))
            got = communicator.reduce_scatter_all_reduce(scatter[r], algorithm=algorithm)
            same_bits(got, expected("reduce_scatter_all_reduce", scatter, 2, [4, 4], r))

    mixcomm.run_threads(4, rank)


def test_the_oracle_tells_orders_apart():
    """A test of the test: sums over d first have other bits, so an unordered library would be found."""
    random = np.random.default_rng(7)
    inputs = [
        (random.standard_normal((64, 64)) * 2.0 ** random.integers(-8, 9)).astype(np.float32)
        for _ in range(4)
    ]
    right = expected("reduce_scatter_all_reduce", inputs, 2, [32, 32], 0)
    swapped = expected("reduce_scatter_all_reduce", [inputs[i] for i in (0, 2, 1, 3)], 2, [32, 32], 0)
    with pytest.raises(AssertionError, match="differ"):
        same_bits(swapped, right)


def test_pause_gives_memory_back_and_resume_makes_it_again():
    """At the same addresses, zeroed; operations in between are refused, and go on behind it."""

    def rank(bootstrap):
        with mixcomm.Communicator(bootstrap, tp=2, dp=1) as communicator:
            memory = communicator.empty((2, 8))
            place = memory.__array_interface__["data"]
            for _ in range(3):
                memory[:] = 1
                assert (communicator.all_reduce(memory) == 2).all()
                assert not communicator.paused
                communicator.pause()
                communicator.pause()
                assert communicator.paused
                with pytest.raises(mixcomm.InvalidArgument, match="paused"):
                    communicator.all_reduce(np.ones((2, 8), np.float32))
                with pytest.raises(mixcomm.InvalidArgument, match="paused"):
                    communicator.allocate(16)
                communicator.resume()
                communicator.resume()
                assert (memory == 0).all()
                assert memory.__array_interface__["data"] == place

    mixcomm.run_threads(2, rank)
