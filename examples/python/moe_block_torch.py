"""Two layers of attention TP 2 x DP 2 and experts EP 4 in PyTorch: fused boundaries against composed ones.

Run: torchrun --nproc-per-node 4 moe_block_torch.py. On CPU torch.distributed goes over gloo; --device cuda
needs one GPU per rank, or one that all share (then start nvidia-cuda-mps-control -d first, so that their
kernels run at the same time).
"""

import argparse
import os

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

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """All-reduce over TP, then all-gather over DP."""
        x = x.clone()
        dist.all_reduce(x, group=self.tp)
        blocks = [torch.empty_like(x) for _ in range(DP)]
        dist.all_gather(blocks, x, group=self.dp)
        return torch.cat(blocks)

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        """Reduce-scatter over DP (all-reduce and slice, which gloo has), then all-reduce over TP."""
        x = x.clone()
        dist.all_reduce(x, group=self.dp)
        x = x.unflatten(0, (DP, -1))[dist.get_rank() // TP].contiguous()
        dist.all_reduce(x, group=self.tp)
        return x


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


@torch.inference_mode()
def main() -> None:
    """Runs both ways on the same numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())

    communicator = mixcomm.Communicator.from_torch(tp=TP, dp=DP, backend=device)
    fused, composed = Fused(communicator), Composed()
    blocks = [Block(layer, rank).to(device) for layer in range(LAYERS)]
    generator = torch.Generator().manual_seed(100 + rank // TP)  # the same on the TP ranks of a DP rank
    for step in range(3):
        x = y = torch.randint(-8, 9, (ROWS, HIDDEN), generator=generator).float().to(device)
        for block in blocks:
            # Gloo has no CUDA tensors for all of these, so the composed way goes through the host.
            x = block(x, fused)
            y = block.cpu()(y.cpu(), composed).to(device)
            block.to(device)
        assert x.equal(y), f"step {step}: fused and composed differ on rank {rank}"
        assert x.any(), "nothing was computed"
    print(f"rank {rank}: {LAYERS} layers, fused and composed give the same numbers")
    communicator.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
