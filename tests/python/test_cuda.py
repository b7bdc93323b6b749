"""Ranks as streams of one GPU, as threads: every operation bit by bit, captured graphs, failures."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import numpy as np  # noqa: E402
from cuda_streams import on_streams, why_no_cuda  # noqa: E402
from oracle import DTYPES, GRIDS, ROWS, expected, in_rows, out_rows, random_inputs, same_bits  # noqa: E402
from tensors import to_numpy, to_torch  # noqa: E402

import mixcomm  # noqa: E402
import mixcomm.torch as ops  # noqa: E402

pytestmark = pytest.mark.skipif(bool(why_no_cuda()), reason=why_no_cuda())

KINDS = {"new": 17, "out": 64, "symmetric": 64}  # of results, with the hidden size that they are tried with
PLACE = 16384  # bytes for a tensor in symmetric memory


@pytest.mark.parametrize("spread", ROWS)
@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_against_numpy(tp, dp, spread):
    """Methods and ops, in new tensors, in given ones, and in symmetric memory; new inputs for each call."""
    rows, world = ROWS[spread](dp), tp * dp
    random = np.random.default_rng(world * 100 + tp)
    cases = [(op, name, kind) for op in mixcomm.OPERATIONS for name in DTYPES for kind in KINDS]
    inputs = {
        (op, name, kind): random_inputs(op, name, rows, tp, KINDS[kind], random) for op, name, kind in cases
    }

    def rank(me):
        communicator = me.communicator(tp, dp, max_lanes=4 if spread == "even" else 0)
        memory = communicator.allocate(2 * len(cases) * PLACE)

        def symmetric(place, count, name):  # of the same shape on all ranks, of which each uses what it has
            array = memory.array((sum(rows), KINDS["symmetric"]), name, place * PLACE)
            return torch.from_dlpack(array)[:count]

        calls = []
        for i, (op, name, kind) in enumerate(cases):
            x, out = to_torch(inputs[op, name, kind][me.rank], "cuda"), None
            if kind != "new":
                shape = out_rows(op, rows, me.rank // tp), KINDS[kind]
                out = torch.full(shape, 7, dtype=x.dtype, device="cuda")
            if kind == "symmetric":
                out = symmetric(2 * i, len(out), name).fill_(7)
                x = symmetric(2 * i + 1, len(x), name).copy_(x)
            calls.append((op, x, out, ("auto", "one_shot", "two_shot")[i % 3]))
        counts = 3 if spread == "even" else rows
        me.meet()
        results = []
        for i, (op, x, out, algorithm) in enumerate(calls):
            of_op = (counts,) if op != "all_reduce" else ()
            where = ops if i % 2 else mixcomm.Communicator
            results.append(getattr(where, op)(communicator, x, *of_op, out=out, algorithm=algorithm))
        me.meet()
        communicator.check()
        for (op, name, kind), (_, _, out, _), result in zip(cases, calls, results, strict=True):
            assert out is None or result is out
            same_bits(to_numpy(result), expected(op, inputs[op, name, kind], tp, rows, me.rank))
        me.meet()

    on_streams(world, rank)


def test_counts_in_a_captured_graph():
    """One graph of five operations, replayed with new row counts in device memory and new inputs."""
    tp, dp, most, hidden = 2, 2, 5, 64
    steps = [[3, 1], [0, 5], [5, 5], [0, 0], [2, 4], [1, 0]]
    random = np.random.default_rng(11)
    inputs = [
        {op: random_inputs(op, "bf16", rows, tp, hidden, random) for op in mixcomm.OPERATIONS}
        for rows in steps
    ]

    def rank(me):
        communicator = me.communicator(tp, dp)
        counts = torch.zeros(dp, dtype=torch.int64, device="cuda")
        room = {op: in_rows(op, [most] * dp, 0) for op in mixcomm.OPERATIONS}
        x = {op: torch.zeros(room[op], hidden, dtype=torch.bfloat16, device="cuda") for op in room}
        graph, out = me.capture(lambda: {op: communicator.run(op, x[op], counts) for op in x})
        for rows, given in zip(steps, inputs, strict=True):
            counts.copy_(torch.tensor(rows))
            for op in x:
                x[op][: len(given[op][me.rank])] = to_torch(given[op][me.rank], "cuda")
            me.meet()
            graph.replay()
            me.meet()
            communicator.check()
            for op in x:
                wanted = expected(op, given[op], tp, rows, me.rank)
                same_bits(to_numpy(out[op][: len(wanted)]), wanted)
        me.meet()

    on_streams(tp * dp, rank)


def test_ops_in_a_captured_graph():
    """mixcomm.torch with uneven rows, captured with other work around it, on inputs that change."""
    tp, dp, rows, hidden = 2, 2, [3, 1], 64

    def rank(me):
        communicator = me.communicator(tp, dp)
        number = ops.register(communicator)
        x = torch.zeros(rows[me.rank // tp], hidden, device="cuda")

        def block():
            tokens = ops.all_reduce_all_gather(number, x * 2, rows)
            return ops.reduce_scatter_all_reduce(number, tokens + 1, rows)

        _ = x * 2, x + 1, x.fill_(0)  # these kernels are used now for the first time
        graph, y = me.capture(block)
        for value in (1, 5, -3):
            x.fill_(value * (me.rank // tp + 1))
            me.meet()
            graph.replay()
            me.meet()
            # Two TP ranks add up 2 x; four ranks add up that and 1.
            assert (y == 4 * (4 * value * (me.rank // tp + 1) + 1)).all()
        me.meet()

    on_streams(tp * dp, rank)


def test_timeout_names_the_missing():
    """As a Python exception, which stays; the device goes on."""

    def rank(me):
        communicator = me.communicator(3, timeout=0.5)
        x = torch.ones(2, 8, device="cuda")
        out = torch.empty_like(x)
        me.meet()
        if me.rank != 1:
            communicator.all_reduce(x, out=out)
            me.stream.synchronize()
            for call in (communicator.check, lambda: communicator.all_reduce(x, out=out)):
                with pytest.raises(mixcomm.Timeout, match="rank 1") as caught:
                    call()
                assert caught.value.missing == (1,)
        me.meet()
        after = me.communicator(3)
        me.meet()
        after.all_reduce(x, out=out)
        me.meet()
        assert (out == 3).all()
        me.meet()

    on_streams(3, rank)


def test_disagreement():
    """With check_agreement, ranks that call different things are told."""

    def rank(me):
        communicator = me.communicator(2, check_agreement=True)
        x = torch.ones(2, 8 + me.rank, device="cuda")
        out = torch.empty_like(x)
        me.meet()
        with pytest.raises(mixcomm.Disagreement, match="hidden"):
            communicator.all_reduce(x, out=out)
            me.stream.synchronize()
            communicator.check()
        me.meet()

    on_streams(2, rank)


def test_tune():
    """Ranks as threads that share the GPU; in a process of its own, as it makes streams."""
    script = """
import mixcomm
quick = {"seconds": 0, "most_bytes": 16384, "progress": False}
for tp, dp in ((2, 1), (1, 2), (2, 2)):
    tables = mixcomm.run_threads(tp * dp, lambda b: mixcomm.tune(b, tp=tp, backend="cuda", **quick))
    assert len({str(table) for table in tables}) == 1
    assert (tables[0].tp, tables[0].dp, tables[0].backend) == (tp, dp, "cuda")
    assert tables[0].algorithm("all_reduce_all_gather", 4096) != "auto"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
