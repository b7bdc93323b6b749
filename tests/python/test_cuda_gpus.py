"""Code written for flashinfer.comm.mixed_comm, on ranks as processes with a GPU each, over NCCL's groups."""

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

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
MOST_ROWS, HIDDEN = 4096, 8192
BATCHES = [
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    32,
    64,
    100,
    128,
    200,
    256,
    333,
    512,
    777,
    1024,
    1500,
    2048,
    3000,
    4095,
]
BATCHES.append(MOST_ROWS)
SCATTERS = (MixedCommOp.REDUCESCATTER, MixedCommOp.REDUCESCATTER_ALLREDUCE)


def needs(world):
    """The mark of a test that takes so many GPUs."""
    built = mixcomm.info()["cuda"]
    why = f"{world} ranks need a GPU each, and there are {GPUS}" if built else "built without CUDA"
    return pytest.mark.skipif(not built or world > GPUS, reason=why)


def on_gpus(fn, world, *args):
    """Runs fn(rank, world, *args) on ranks as processes with a GPU and a place in NCCL's group."""
    mp.spawn(_rank, (fn, world, free_port(), args), nprocs=world)


def _rank(rank, fn, world, port, args):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=rank, world_size=world, device_id=device)
    try:
        with torch.no_grad():
            fn(rank, world, device, *args)
    finally:
        dist.destroy_process_group()


def handler_of(rank, world, device, tp, dtype):
    """On the grid of tp x (world / tp)."""
    return MixedCommHandler(rank, world, rank, world, 0, 1, tp, None, None, None, dtype, device)


def same_on_tp_ranks(handler, x):
    """Bit by bit."""
    tp = handler.para_info.tp_size
    everyone = x.new_empty(tp, *x.shape)
    dist.all_gather_into_tensor(everyone, x, group=handler.tp_comm_group)
    return all(each.view(torch.int16).equal(x.view(torch.int16)) for each in everyone)


def modes(rank, world, device, dtype):
    """Every mode on every grid and batch size: against one collective of NCCL, and against exact sums."""
    torch.manual_seed(rank)
    for tp in [each for each in range(1, world + 1) if world % each == 0]:
        handler = handler_of(rank, world, device, tp, dtype)
        dp = world // tp
        for op in handler.valid_op_list:
            most = MOST_ROWS * (dp if op in SCATTERS else 1)
            floats = torch.empty(most, HIDDEN, dtype=dtype, device=device).uniform_(-0.5, 0.5)
            integers = torch.randint(-3, 4, (most, HIDDEN), device=device).to(dtype)
            for batch in BATCHES:
                rows = batch * (dp if op in SCATTERS else 1)
                for data, exact in ((floats, False), (integers, True)):
                    x = data[:rows]
                    wanted = run_mixed_comm(op, handler, x, mode=MixedCommMode.NCCL_ONE)
                    for mode in handler.valid_mode_list:
                        got = run_mixed_comm(op, handler, x, mode=mode)
                        where = f"{op.name} {mode.name} tp {tp} batch {batch}"
                        if exact:
                            assert got.equal(wanted), where
                        else:
                            assert torch.allclose(got, wanted, rtol=2e-2, atol=2e-2), where
                        if tp > 1:
                            assert same_on_tp_ranks(handler, got), where
            del floats, integers
        torch.cuda.synchronize()
        handler.communicator.check()
        handler.shutdown()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("world", [pytest.param(2, marks=needs(2)), pytest.param(4, marks=needs(4))])
def test_modes(world, dtype):
    """All that its own tests look at, on 24 batch sizes."""
    on_gpus(modes, world, dtype)


class Backend:
    """As much of FlashInfer's communication backend as is used."""

    def Get_rank(self):  # noqa: N802
        """FlashInfer's name."""
        return dist.get_rank()

    def Get_size(self):  # noqa: N802
        """FlashInfer's name."""
        return dist.get_world_size()

    def barrier(self):
        """Of the default group."""
        dist.barrier()


def checkpoints(rank, world, device):
    """Graphs captured before replay right after; the memory was really given back meanwhile."""
    for tp in [each for each in range(1, world + 1) if world % each == 0]:
        handler = handler_of(rank, world, device, tp, torch.bfloat16)
        large = handler.communicator.allocate(1 << 28)
        place = large.data_ptr
        for op in handler.valid_op_list:
            for mode in [each for each in handler.valid_mode_list if each.name.startswith("FUSED_")]:
                rows = 24 * (world // tp)
                x = torch.zeros(rows, HIDDEN, dtype=torch.bfloat16, device=device)
                out = run_mixed_comm(op, handler, x, mode=mode)
                torch.cuda.synchronize()
                dist.barrier()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    run_mixed_comm(op, handler, x, out, mode)
                for round in range(3):
                    for _ in range(1 + round):
                        x.copy_(torch.randint(-3, 4, x.shape, device=device))
                        wanted = run_mixed_comm(op, handler, x, mode=MixedCommMode.NCCL_ONE)
                        out.fill_(7)
                        graph.replay()
                        assert out.equal(wanted), f"{op.name} {mode.name} tp {tp} round {round}"
                    torch.cuda.synchronize()
                    dist.barrier()
                    torch.cuda.synchronize()
                    before = torch.cuda.mem_get_info()[0]
                    handler.checkpoint_prepare()
                    handler.checkpoint_prepare()
                    assert torch.cuda.mem_get_info()[0] >= before + (1 << 27)
                    for refused in handler.valid_mode_list:
                        with pytest.raises(mixcomm.InvalidArgument, match="paused"):
                            run_mixed_comm(op, handler, x, mode=refused)
                    handler.checkpoint_restore(Backend())
                    handler.checkpoint_restore(Backend())
                    assert large.data_ptr == place
                del graph
        torch.cuda.synchronize()
        handler.communicator.check()
        handler.shutdown()


@pytest.mark.parametrize("world", [pytest.param(2, marks=needs(2)), pytest.param(4, marks=needs(4))])
def test_checkpoints(world):
    """checkpoint_prepare and checkpoint_restore on every grid."""
    on_gpus(checkpoints, world)


def tunes(rank, world, device):
    """A table of these GPUs: the same on all ranks, and one that communicators take and are right with."""
    bootstrap = mixcomm.from_torch()
    quick = {"seconds": 0, "most_bytes": 1 << 16, "progress": False}
    for tp in [each for each in range(1, world + 1) if world % each == 0]:
        table = mixcomm.tune(bootstrap, tp=tp, backend="cuda", **quick)
        assert (table.tp, table.dp, table.backend) == (tp, world // tp, "cuda")
        assert torch.cuda.get_device_name(rank) in table.machine
        assert torch.cuda.current_device() == rank
        everyone = [None] * world
        dist.all_gather_object(everyone, str(table))
        assert everyone == [str(table)] * world
        with mixcomm.Communicator(bootstrap, tp=tp, backend="cuda", tuning=table) as communicator:
            assert "tuned" in communicator.plan("all_reduce_all_gather", 4, HIDDEN)["why"]
            x = torch.full((4, HIDDEN), rank + 1, dtype=torch.bfloat16, device=device)
            out = communicator.all_reduce_all_gather(x)
            torch.cuda.synchronize()
            communicator.check()
            for d in range(world // tp):
                assert (out[4 * d : 4 * d + 4] == sum(range(d * tp + 1, d * tp + tp + 1))).all()
            dist.barrier()


@pytest.mark.parametrize("world", [pytest.param(2, marks=needs(2)), pytest.param(4, marks=needs(4))])
def test_tune(world):
    """tune(backend="cuda") on every grid, a GPU for each rank."""
    on_gpus(tunes, world)
