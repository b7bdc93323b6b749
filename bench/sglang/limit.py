#!/usr/bin/env python3
"""From how many bytes on two NCCL calls are as quick as one of mixcomm's, outside of graphs, as in prefill.

torchrun --nproc-per-node 4 sglang_limit.py --tp 2

One line of JSON for each size: the bytes of the tensor with all rows, and microseconds of the gather into the
FFN and of the exit out of it, mixcomm's and NCCL's. Median of 15, the slowest rank. Used for the default of
SGLANG_MIXED_COMM_MAX_BYTES.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable

import torch
import torch.distributed as dist

import mixcomm


def median_us(action: Callable[[], None], times: int = 15) -> float:
    """The slowest rank's median."""
    for _ in range(3):
        action()
    found = []
    for _ in range(times):
        dist.barrier()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(200_000)  # so that the host is ahead
        begin.record()
        action()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) * 1000)
    worst = torch.tensor(statistics.median(found), device="cuda")
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return float(worst)


def main() -> None:
    """All sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--rows", default="64,256,512,1024,2048,4096,8192", help="of each DP rank")
    options = parser.parse_args()
    local = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local)
    dist.init_process_group("nccl", device_id=torch.device("cuda", local))
    world, rank, tp = dist.get_world_size(), dist.get_rank(), options.tp
    dp, d = world // tp, rank // tp
    teams = [dist.new_group(list(range(i * tp, i * tp + tp))) for i in range(dp)]
    communicator = mixcomm.Communicator.from_torch(tp=tp, dp=dp, backend="cuda", device=local, timeout=60)
    for rows in (int(text) for text in options.rows.split(",")):
        mine = torch.randn(rows, options.hidden, device="cuda").bfloat16()
        everything = torch.randn(rows * dp, options.hidden, device="cuda").bfloat16()
        share, piece = torch.empty_like(mine[: rows // tp]), torch.empty_like(everything[: rows // tp])
        out = torch.empty_like(mine)

        def nccl_gather(mine=mine, share=share, everything=everything) -> None:
            dist.reduce_scatter_tensor(share, mine, group=teams[d])
            dist.all_gather_into_tensor(everything, share)

        def nccl_exit(everything=everything, piece=piece, out=out) -> None:
            dist.reduce_scatter_tensor(piece, everything)
            dist.all_gather_into_tensor(out, piece, group=teams[d])

        def our_gather(mine=mine, everything=everything) -> None:
            communicator.all_reduce_all_gather(mine, out=everything)

        shared = communicator.empty(everything.shape, torch.bfloat16)  # symmetric memory

        def our_gather_there(mine=mine, shared=shared) -> None:
            communicator.all_reduce_all_gather(mine, out=shared)

        def our_exit(everything=everything, out=out) -> None:
            communicator.reduce_scatter_all_reduce(everything, out=out)

        row = {
            "bytes": everything.numel() * 2,
            "gather_us": round(median_us(our_gather), 1),
            "nccl_gather_us": round(median_us(nccl_gather), 1),
            "gather_symmetric_us": round(median_us(our_gather_there), 1),
            "exit_us": round(median_us(our_exit), 1),
            "nccl_exit_us": round(median_us(nccl_exit), 1),
        }
        communicator.check()
        if rank == 0:
            print(json.dumps(row), flush=True)
    communicator.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
