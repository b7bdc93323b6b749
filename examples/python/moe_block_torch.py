"""Two layers of attention TP 2 x DP 2 and experts EP 4 in PyTorch: fused boundaries against composed ones.

Run: torchrun --nproc-per-node 4 moe_block_torch.py. --backend cuda takes one GPU per rank, or one that all
share: then start nvidia-cuda-mps-control -d first, so that their kernels run at the same time. The composed
way goes over NCCL where each rank has a GPU, and elsewhere over gloo, through host memory.
"""

import argparse
import os
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

import mixcomm
import mixcomm.torch as ops

TP, DP, HIDDEN, LAYERS = 2, 2, 64, 2
ROWS = 4  # tokens of each DP rank


class Composed:
    """The boundaries as two collectives each, as engines have them today."""

    def __init__(self) -> None:
        """Makes the groups. Every rank makes all of them, in one order."""
        tp = [dist.new_group([d * TP + t for t in range(TP)]) for d in range(DP)]
        dp = [dist.new_group([d * TP + t for d in range(DP)]) for t in range(TP)]
        self.tp, self.dp = tp[dist.get_rank() // TP], dp[dist.get_rank() % TP]
        self.nccl = dist.get_backend() == "nccl"

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """All-reduce over TP, then all-gather over DP."""
        mine = x.clone() if self.nccl else x.to("cpu", copy=True)
        dist.all_reduce(mine, group=self.tp)
        blocks = [torch.empty_like(mine) for _ in range(DP)]
        dist.all_gather(blocks, mine, group=self.dp)
        return torch.cat(blocks).to(x.device)

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        """Reduce-scatter over DP (with gloo all-reduce and slice), then all-reduce over TP."""
        if self.nccl:
            mine = x.new_empty(x.shape[0] // DP, *x.shape[1:])
            dist.reduce_scatter_tensor(mine, x, group=self.dp)
        else:
            mine = x.to("cpu", copy=True)
            dist.all_reduce(mine, group=self.dp)
            mine = mine.unflatten(0, (DP, -1))[dist.get_rank() // TP].contiguous()
        dist.all_reduce(mine, group=self.tp)
        return mine.to(x.device)


class Fused:
    """The same, one call each."""

    def __init__(self, communicator: mixcomm.Communicator) -> None:
        """Over all ranks."""
        self.communicator = communicator

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """All-reduce over TP and all-gather over DP."""
        return ops.all_reduce_all_gather(self.communicator, x)

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        """Reduce-scatter and all-reduce over all ranks."""
        return ops.reduce_scatter_all_reduce(self.communicator, x)


class Block(torch.nn.Module):
    """One layer: this rank's slice of attention (here its two projections), and its one expert of four."""

    def __init__(self, layer: int, rank: int) -> None:
        """Weights are small, so that sums are exact in any order, and both ways give the same bits."""
        super().__init__()
        whole = torch.Generator().manual_seed(layer)
        wide = torch.randint(-1, 2, (2, HIDDEN, HIDDEN), generator=whole).float() / 8
        experts = torch.randint(-1, 2, (TP * DP, HIDDEN, HIDDEN), generator=whole).float() / 8
        t, slice_ = rank % TP, HIDDEN // TP
        self.register_buffer("up", wide[0][:, t * slice_ : (t + 1) * slice_].contiguous())  # columns
        self.register_buffer(
            "down", wide[1][t * slice_ : (t + 1) * slice_].contiguous()
        )  # rows: partial sums
        self.register_buffer("expert", experts[rank].contiguous())
        self.rank = rank

    def forward(self, x: torch.Tensor, boundary: "Composed | Fused") -> torch.Tensor:
        """x: this DP rank's rows; so is what comes out."""
        attended = (x @ self.up).round() @ self.down
        if self.rank % TP == 0:
            attended = attended + x  # the residual once, so that the sum over TP has it once
        tokens = boundary.gather(attended.round())
        # Top-1 routing by a rule that all ranks share; a rank computes the tokens of its expert, the others
        # are 0.
        chosen = tokens.abs().sum(1).long() % (TP * DP) == self.rank
        return boundary.scatter((torch.relu(tokens) @ self.expert).round() * chosen[:, None]).clamp(-64, 64)


def microseconds(call: Callable[[], object], times: int = 100) -> float:
    """Of one call, on average, all ranks at once."""
    for _ in range(5):
        call()
    dist.barrier()
    start = time.perf_counter()
    for _ in range(times):
        call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times * 1e6


@torch.inference_mode()
def main() -> None:
    """Runs both ways on the same numbers, then times their boundaries."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", choices=["cpu", "cuda"], default="cpu")
    backend = parser.parse_args().backend
    torch.set_num_threads(1)
    if backend == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    gpu_each = backend == "cuda" and torch.cuda.device_count() >= TP * DP
    dist.init_process_group("nccl" if gpu_each else "gloo")
    rank = dist.get_rank()

    communicator = mixcomm.Communicator.from_torch(tp=TP, dp=DP, backend=backend)
    fused, composed = Fused(communicator), Composed()
    blocks = [Block(layer, rank).to(backend) for layer in range(LAYERS)]
    generator = torch.Generator().manual_seed(100 + rank // TP)  # the same on the TP ranks of a DP rank
    for step in range(3):
        x = y = torch.randint(-8, 9, (ROWS, HIDDEN), generator=generator).float().to(backend)
        for block in blocks:
            x, y = block(x, fused), block(y, composed)
        assert x.equal(y), f"step {step}: fused and composed differ on rank {rank}"
        assert x.any(), "nothing was computed"
    print(f"rank {rank}: {LAYERS} layers, fused and composed give the same numbers")

    ways = (fused, composed)
    times = [microseconds(lambda way=way: way.scatter(way.gather(x))) for way in ways]
    if rank == 0:
        print(
            f"two boundaries of {ROWS} rows x {HIDDEN}: fused {times[0]:.0f} us, "
            f"two torch.distributed calls each ({dist.get_backend()}) {times[1]:.0f} us"
        )
    communicator.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
