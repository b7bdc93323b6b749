"""Code written for flashinfer.comm.mixed_comm, with one import changed, on ranks as processes over gloo."""

import os

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from ports import free_port  # noqa: E402

import mixcomm  # noqa: E402
from mixcomm.flashinfer import (  # noqa: E402
    MixedCommHandler,
    MixedCommMode,
    MixedCommOp,
    run_mixed_comm,
)


def on_ranks(fn, world, *args):
    """Runs fn(rank, world, *args) on ranks as processes that have a gloo group."""
    mp.spawn(_rank, (fn, world, free_port(), args), nprocs=world)


def _rank(rank, fn, world, port, args):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        fn(rank, world, *args)
    finally:
        dist.destroy_process_group()


def reference(op, x, tp, dp):
    """The same through all_gather of torch.distributed and plain sums; integers, so that they are exact."""
    everyone = [torch.empty_like(x) for _ in range(tp * dp)]
    dist.all_gather(everyone, x)
    t, d = dist.get_rank() % tp, dist.get_rank() // tp
    over_tp = [
        torch.stack(everyone[each * tp : each * tp + tp]).float().sum(0).to(x.dtype) for each in range(dp)
    ]
    if op == MixedCommOp.ALLREDUCE:
        return over_tp[d]
    if op == MixedCommOp.ALLGATHER:
        return torch.cat([everyone[each * tp + t] for each in range(dp)])
    if op == MixedCommOp.ALLREDUCE_ALLGATHER:
        return torch.cat(over_tp)
    return torch.stack(everyone).float().sum(0).to(x.dtype).unflatten(0, (dp, -1))[d]


def check_groups(handler, rank, tp, dp):
    """The teams as process groups, where a team is not all ranks."""
    assert handler.local_comm_group is None
    if tp == 1 or dp == 1:
        assert handler.tp_comm_group is handler.dp_comm_group is None
        return
    assert dist.get_process_group_ranks(handler.tp_comm_group) == [rank // tp * tp + t for t in range(tp)]
    assert dist.get_process_group_ranks(handler.dp_comm_group) == [rank % tp + d * tp for d in range(dp)]


def all_modes(rank, world, tp, dp):
    """Every valid op in every valid mode, with and without x_out; a new input for each."""
    for dtype in (torch.bfloat16, torch.float16):
        handler = MixedCommHandler(
            world_rank=rank,
            world_size=world,
            local_rank=rank,
            local_size=world,
            inter_rank=0,
            inter_size=1,
            local_tp_size=tp,
            local_dp_size=dp,
            inter_tp_size=None,
            inter_dp_size=None,
            dtype=dtype,
            device=torch.device("cpu"),
        )
        generator = torch.Generator().manual_seed(rank)
        assert (handler.para_info.tp_rank, handler.para_info.dp_rank) == (rank % tp, rank // tp)
        assert MixedCommMode.NCCL_ONE in handler.valid_mode_list
        check_groups(handler, rank, tp, dp)
        fused = [mode for mode in handler.valid_mode_list if mode.name.startswith("FUSED_")]
        blocks = handler.max_block_size_dict
        assert set(blocks) == {(op, mode) for op in handler.valid_op_list for mode in fused}
        assert all(0 < size <= 1024 for sizes in blocks.values() for size in sizes.values())
        for op in handler.valid_op_list:
            rows = 4 * dp if "REDUCESCATTER" in op.name else 4
            for mode in [None, *handler.valid_mode_list]:
                x = torch.randint(-3, 4, (rows, 8), generator=generator).to(dtype)
                expected = reference(op, x, tp, dp)
                assert run_mixed_comm(op, handler, x, mode=mode).equal(expected)
                out = torch.empty_like(expected)
                assert run_mixed_comm(op, handler, x, out, mode) is out
                assert out.equal(expected)
            assert (
                handler.select_autotune_mode(op, x) in handler.valid_mode_list or not handler.para_info.use_tp
            )
        handler.shutdown()
        handler.shutdown()


@pytest.mark.parametrize(("tp", "dp"), [(2, 2), (2, 1), (1, 2)])
def test_all_modes(tp, dp):
    """On grids of each kind."""
    on_ranks(all_modes, tp * dp, tp, dp)


def refusals(rank, world):
    """What does not fit, or has no counterpart, is said before anything is sent."""
    arguments = [rank, world, rank, world, 0, 1, 2, None, None, None, torch.bfloat16, torch.device("cpu")]
    handler = MixedCommHandler(*arguments)
    x = torch.ones(4, 8, dtype=torch.bfloat16)
    op = MixedCommOp.ALLREDUCE
    for call, error, message in [
        (lambda: run_mixed_comm(MixedCommOp.ALLGATHER, handler, x), ValueError, "Invalid op"),
        (
            lambda: run_mixed_comm(op, handler, x, mode=MixedCommMode.FUSED_OPT_BYTES2_UC),
            NotImplementedError,
            "OPT_BYTES2_UC",
        ),
        (lambda: run_mixed_comm(op, handler, x.float()), ValueError, "dtype"),
        (lambda: run_mixed_comm(op, handler, x[0]), ValueError, "ndim"),
        (lambda: run_mixed_comm(op, handler, x, x.new_empty(4, 9)), ValueError, "x_out"),
        (lambda: run_mixed_comm(op, handler, x, x.new_empty(5, 8)), ValueError, "rows"),
        (lambda: run_mixed_comm(op, handler, x, x.float()), ValueError, "x_out"),
        (
            lambda: run_mixed_comm(op, handler, x, x.new_empty(5, 8), MixedCommMode.NCCL_ONE),
            ValueError,
            "rows",
        ),
        (lambda: MixedCommHandler(*arguments, max_block_size=100), ValueError, "multiple of 32"),
        (lambda: MixedCommHandler(*arguments[:4], 0, 2, *arguments[6:]), NotImplementedError, "one host"),
        (lambda: MixedCommHandler(*arguments[:10], torch.int8, arguments[11]), ValueError, "dtype"),
        (lambda: MixedCommHandler(*arguments[:6], 3, 1, *arguments[8:]), ValueError, "local_size"),
    ]:
        with pytest.raises(error, match=message):
            call()
    assert run_mixed_comm(op, handler, x).equal(x * 2)
    handler.shutdown()
    with pytest.raises(mixcomm.InvalidArgument, match="closed"):
        run_mixed_comm(op, handler, x)


def test_refusals():
    """The handler stays usable."""
    on_ranks(refusals, 2)


class Backend:
    """FlashInfer's communication backend, as far as checkpoint_restore uses it."""

    def __init__(self, rank, size):
        self.rank, self.size, self.barriers = rank, size, 0

    def Get_rank(self):  # noqa: N802
        """FlashInfer's name."""
        return self.rank

    def Get_size(self):  # noqa: N802
        """FlashInfer's name."""
        return self.size

    def barrier(self):
        """Of the default group."""
        self.barriers += 1
        dist.barrier()


def checkpoints(rank, world):
    """Memory goes and comes again; twice is fine; in between every mode is refused."""
    arguments = [rank, world, rank, world, 0, 1, 2, None, None, None, torch.bfloat16, torch.device("cpu")]
    handler = MixedCommHandler(*arguments)
    op = MixedCommOp.ALLREDUCE_ALLGATHER
    for value in range(3):
        x = torch.full((2, 8), value + rank % 2, dtype=torch.bfloat16)
        for mode in handler.valid_mode_list:
            assert run_mixed_comm(op, handler, x, mode=mode).equal(torch.full((4, 8), 2 * value + 1).to(x))
        handler.checkpoint_prepare()
        handler.checkpoint_prepare()
        for mode in handler.valid_mode_list:
            with pytest.raises(mixcomm.InvalidArgument, match="paused"):
                run_mixed_comm(op, handler, x, mode=mode)
        with pytest.raises(ValueError, match="local_rank"):
            handler.checkpoint_restore(Backend((rank + 1) % world, world))
        backend = Backend(rank, world)
        handler.checkpoint_restore(backend)
        handler.checkpoint_restore(backend)
        assert backend.barriers == 1
    handler.checkpoint_prepare()
    handler.shutdown()


def test_checkpoints():
    """On ranks that have both kinds of teams."""
    on_ranks(checkpoints, 4)


def test_compute_capabilities(monkeypatch):
    """Those that the build has kernels for, and later ones where it has PTX."""
    supported = run_mixed_comm.is_compute_capability_supported
    for built, yes, no in [
        ("80-real,90a-real,100-real,100-virtual", (80, 86, 89, 90, 100, 103, 120), (70, 75)),
        ("90a-real", (90,), (80, 100)),
        ("80", (80, 86, 90, 120), (75,)),
        ("", (), (80, 90, 100)),
    ]:
        monkeypatch.setattr(mixcomm._core, "cuda_architectures", built)
        assert [cc for cc in (*yes, *no) if supported(cc)] == list(yes)
    monkeypatch.undo()
    assert supported(90) == mixcomm.info()["cuda"] or "90" not in mixcomm._core.cuda_architectures


def test_values_are_flashinfers():
    """Programs store and compare them."""
    assert [each.name for each in MixedCommOp] == [
        "ALLREDUCE",
        "ALLGATHER",
        "REDUCESCATTER",
        "ALLREDUCE_ALLGATHER",
        "REDUCESCATTER_ALLREDUCE",
    ]
    assert [int(each) for each in MixedCommOp] == list(range(5))
    assert [int(each) for each in MixedCommMode] == list(range(9))
    assert MixedCommMode(8).name == "AUTOTUNE"
