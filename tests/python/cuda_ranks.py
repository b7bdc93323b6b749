"""One of the ranks that test_cuda_processes.py starts as processes: runs every case, and says how it went."""

import json
import sys
import traceback

import numpy as np
import torch
import torch.distributed as dist
from oracle import DTYPES, expected, in_rows, random_inputs, same_bits
from tensors import to_numpy, to_torch

import mixcomm
import mixcomm.torch as ops
from mixcomm.flashinfer import MixedCommHandler, MixedCommOp, run_mixed_comm

TP, DP = 2, 2
WORLD = TP * DP
PATIENCE = 120.0  # seconds: ranks compile, and come late


def communicator_on_gpu(**options):
    """Over all ranks."""
    return mixcomm.Communicator.from_env(tp=TP, dp=DP, backend="cuda", **{"timeout": PATIENCE, **options})


def operations(rank):
    """Every operation and dtype, uneven rows, in plain and symmetric memory; new inputs for each call."""
    rows, random = [3, 1], np.random.default_rng(3)
    with communicator_on_gpu() as communicator:
        for op in mixcomm.OPERATIONS:
            for name in DTYPES:
                for symmetric in (False, True):
                    inputs = random_inputs(op, name, rows, TP, 64, random)
                    x = to_torch(inputs[rank], "cuda")
                    if symmetric:
                        memory = communicator.empty((sum(rows), 64), x.dtype)
                        x = memory[: len(x)].copy_(x)
                    got = communicator.run(op, x, rows if op != "all_reduce" else None)
                    same_bits(to_numpy(got), expected(op, inputs, TP, rows, rank))
        communicator.check()


def captured(rank):
    """A graph with other work in it, replayed with new row counts in device memory and new inputs."""
    most, random = 4, np.random.default_rng(4)
    gather, scatter = "all_reduce_all_gather", "reduce_scatter_all_reduce"
    with communicator_on_gpu() as communicator:
        counts = torch.zeros(DP, dtype=torch.int64, device="cuda")
        x = {op: torch.zeros(in_rows(op, [most] * DP, 0), 64, device="cuda") for op in (gather, scatter)}
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            out = {op: communicator.run(op, x[op], counts) for op in x}
            fixed = ops.all_reduce(communicator, x[gather] * 2)
        for rows in ([3, 1], [0, 4], [4, 4], [0, 0], [1, 2]):
            inputs = {op: random_inputs(op, "fp32", rows, TP, 64, random) for op in x}
            counts.copy_(torch.tensor(rows))
            for op in x:
                x[op].fill_(1)
                x[op][: len(inputs[op][rank])] = to_torch(inputs[op][rank], "cuda")
            graph.replay()
            torch.cuda.synchronize()
            communicator.check()
            for op in x:
                wanted = expected(op, inputs[op], TP, rows, rank)
                same_bits(to_numpy(out[op][: len(wanted)]), wanted)
            doubled = [2 * each for each in inputs[gather]]
            wanted = expected("all_reduce", doubled, TP, rows, rank)
            same_bits(to_numpy(fixed[: len(wanted)]), wanted)
            assert (fixed[len(wanted) :] == 4).all()


def compiled(rank):
    """A block without graph breaks, in the CUDA graphs that Inductor makes, against the same eagerly."""
    with communicator_on_gpu() as communicator:
        number = ops.register(communicator)

        def block(x, weight):
            y = torch.relu(ops.all_reduce_all_gather(number, x) @ weight)
            return ops.reduce_scatter_all_reduce(number, y) + x

        fast = torch.compile(block, fullgraph=True, mode="reduce-overhead", dynamic=False)
        generator = torch.Generator("cuda").manual_seed(rank)
        for _ in range(5):
            x, weight = (torch.randn(n, 64, device="cuda", generator=generator) for n in (8, 64))
            torch.compiler.cudagraph_mark_step_begin()
            torch.testing.assert_close(fast(x, weight).clone(), block(x, weight), atol=1e-3, rtol=1e-3)
        torch.cuda.synchronize()
        communicator.check()


def flashinfer(rank):
    """Its handler on CUDA tensors, in every mode that has a counterpart."""
    handler = MixedCommHandler(
        rank, WORLD, rank, WORLD, 0, 1, TP, DP, None, None, torch.bfloat16, torch.device("cuda")
    )
    random = np.random.default_rng(5)
    for op in handler.valid_op_list:
        name = (
            "all_reduce_all_gather" if op == MixedCommOp.ALLREDUCE_ALLGATHER else "reduce_scatter_all_reduce"
        )
        for mode in [None, *handler.valid_mode_list]:
            # Whole numbers, so that composed sums are exact as well.
            shapes = [(in_rows(name, [4, 4], r // TP), 8) for r in range(WORLD)]
            inputs = [random.integers(-3, 4, shape).astype(DTYPES["bf16"]) for shape in shapes]
            x = to_torch(inputs[rank], "cuda")
            wanted = expected(name, inputs, TP, [4, 4], rank)
            same_bits(to_numpy(run_mixed_comm(op, handler, x, mode=mode)), wanted)
            out = to_torch(np.zeros_like(wanted), "cuda")
            assert run_mixed_comm(op, handler, x, out, mode) is out
            same_bits(to_numpy(out), wanted)
    torch.cuda.synchronize()
    handler.shutdown()


def layers(rank):
    """A toy decoder of two layers: attention multiplies by 4, experts by 8; the residual is added once."""
    model = {"attn_tp": TP, "attn_dp": DP, "moe_tp": 2, "moe_ep": 2, "hidden": 64, "max_rows": 64}
    options = {"dtype": torch.float32, "backend": "cuda", "timeout": PATIENCE}
    with mixcomm.LayerCommunicator(layers=["moe", "moe"], **model, **options) as plan:
        rows = plan.rows([3, 1])
        first, count = plan.range("by_dp_rank", rows)
        start = (first + 1 + torch.arange(count, device="cuda"))[:, None].repeat(1, 64).float()
        residual = start.clone()
        for layer in range(2):
            boundary = plan.before_mlp(layer)
            mixed = residual * (3 if "residual" in boundary.adds_before else 2)
            everyone = plan.cross(boundary, mixed, rows)
            mine = plan.cross(plan.after_mlp(layer), everyone * 2, rows)
            residual = mine + everyone[first : first + count]
        assert (residual == start * (5 * 9) ** 2).all()
        torch.cuda.synchronize()


def missing(rank):
    """A rank that does not come is named by the others, as a Python exception; new communicators work."""
    x = torch.ones(2, 64, device="cuda")
    communicator = communicator_on_gpu(timeout=2.0)
    communicator.all_reduce_all_gather(x)
    torch.cuda.synchronize()
    if rank != 3:
        communicator.all_reduce_all_gather(x)
        torch.cuda.synchronize()
        try:
            communicator.check()
        except mixcomm.Timeout as error:
            assert error.missing == (3,), error
        else:
            raise AssertionError("no error")
    with communicator_on_gpu() as after:
        assert (after.all_reduce(x) == 2).all()


CASES = [operations, captured, compiled, flashinfer, layers, missing]


@torch.no_grad()
def main():
    """Prints a line of JSON for each case; ranks begin each one together."""
    rank = mixcomm.from_env().rank
    dist.init_process_group("gloo", init_method=sys.argv[1], rank=rank, world_size=WORLD)
    gate = mixcomm.Communicator.from_env(tp=WORLD, timeout=2 * PATIENCE)
    for case in CASES:
        error = ""
        try:
            case(rank)
        except Exception:
            error = traceback.format_exc()
        print(json.dumps({"case": case.__name__, "error": error}), flush=True)
        gate.all_reduce(np.zeros((1, 1), np.float32))
    gate.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
