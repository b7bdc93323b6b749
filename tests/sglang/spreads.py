"""Two layers of experts through SGLang 0.5.23's own boundaries, on 8 ranks: stock and on mixcomm.

spreads.py OUT.json: all that 0.5.23 accepts, attention TP x DP and experts TP x EP. Each rank gives its part
of attention's and of the experts' sums; what comes out must hold each sum once. Also written: the collectives
that SGLang called, what the
plug-in ran in their place, and the planner's operations for the spread.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import traceback
from typing import Any

import ranks
import torch

WORLD = 8
HIDDEN = 64


def part(rank: int, rows: int, seed: int) -> torch.Tensor:
    """What a rank gives; each rank can say it of all."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randn(rows, HIDDEN, generator=generator)


def weight(rank: int) -> float:
    """The share of an FFN's output that a rank has: powers of two, so that a wrong sum shows."""
    return 2.0**rank / 255


def ffn(gathered: torch.Tensor) -> torch.Tensor:
    """What the experts make of the rows; not along them, for a norm would hide how much of it is added."""
    return gathered.roll(1, -1)


class Recorder:
    """The collectives that SGLang calls, by group and name."""

    def __init__(self, parallel: Any) -> None:
        self.calls: list[str] = []
        self.names = {
            id(getattr(parallel, f"{name}_group")): name for name in ("moe_tp", "moe_ep", "attn_tp", "tp")
        }

    def watch(self, coordinator: type) -> None:
        """Notes each call of a group's collectives; gloo has no reduce_scatterv, an all-reduce makes it."""

        def noting(name: str, inner: Any) -> Any:
            def call(group: Any, *args: Any, **kwargs: Any) -> Any:
                if group.world_size > 1:
                    self.calls.append(f"{self.names.get(id(group), '?')}.{name}")
                return inner(group, *args, **kwargs)

            return call

        def reduce_scatterv(
            group: Any, input: torch.Tensor, output: torch.Tensor, sizes: list[int]
        ) -> torch.Tensor:
            sums = input.clone()
            torch.distributed.all_reduce(sums, group=group.device_group)
            first = sum(sizes[: group.rank_in_group])
            return output.copy_(sums[first : first + output.shape[0]])

        coordinator.reduce_scatterv = reduce_scatterv
        for name in ("all_reduce", "reduce_scatter_tensor", "all_gather_into_tensor", "reduce_scatterv"):
            setattr(coordinator, name, noting(name, getattr(coordinator, name)))

    def since(self) -> list[str]:
        """Those since the last call of this."""
        calls, self.calls = self.calls, []
        return calls


def layers() -> list[tuple[Any, Any]]:
    """The boundaries of two layers with experts, as Qwen3-MoE declares them."""
    from sglang.srt.layers.layer_boundary import append_stages, declare_attn, declare_ffn, layer_stack
    from sglang.srt.layers.layernorm import RMSNorm

    found = []
    with layer_stack():
        for _ in range(2):
            found.append(
                append_stages(
                    (declare_attn(), RMSNorm(HIDDEN)),
                    (declare_ffn(sparse=True, next_layer_sparse=True), RMSNorm(HIDDEN)),
                )
            )
    return found


def batch(counts: list[int], max_len: bool, own: int) -> Any:
    """A decode batch as prepare_mlp_sync_batch leaves it."""
    from types import SimpleNamespace

    from sglang.srt.layers import dp_attention
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    modes = dp_attention.DpPaddingMode
    made = SimpleNamespace(
        global_num_tokens_cpu=list(counts),
        global_num_tokens_padded_cpu=list(counts),
        global_num_tokens_gpu=torch.tensor(counts, dtype=torch.int64),
        global_dp_buffer_len=sum(counts),
        dp_padding_mode=modes.MAX_LEN if max_len else modes.SUM_LEN,
        dp_local_start_pos=None,
        dp_local_num_tokens=None,
        forward_mode=ForwardMode.DECODE,
        attn_cp_metadata=None,
        attn_tp_sequence_sharded=False,
        input_ids=torch.zeros(own, dtype=torch.int64),
        can_run_tbo=False,
        residual_stream=None,
    )
    dp_attention._DpGatheredBufferWrapper.set_metadata(HIDDEN, torch.float32, torch.device("cpu"))
    dp_attention.set_dp_buffer_len_from_batch(made)
    return made


def forward(
    stages: list[tuple[Any, Any]], made: Any, counts: list[int], rank: int, dp: int, recorder: Recorder
) -> Any:
    """Both layers: what the first FFN and the second attention read, and the calls at each boundary."""
    from sglang.srt.layers.layer_boundary.residual import batch as residual_batch

    d = rank // (WORLD // dp)
    own = counts[d]
    residual_batch.start(made)
    recorder.since()
    calls = {}
    hidden = stages[0][0].prepare(part(d, own, 1), made)
    hidden = stages[0][0].finish(part(rank, own, 2), made)
    hidden = stages[0][1].prepare(hidden, made)
    calls["into the FFN"] = recorder.since()
    entered = hidden.clone()
    hidden = stages[0][1].finish(ffn(hidden) * weight(rank), made)
    read = stages[1][0].prepare(hidden, made)
    calls["out of the FFN"] = recorder.since()
    made.residual_stream = None
    return entered, read, calls


def expected(counts: list[int], dp: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the FFN must read, and what the next attention of DP rank d must read."""
    tp = WORLD // dp
    residuals = [
        part(i, rows, 1).double() + sum(part(i * tp + t, rows, 2).double() for t in range(tp))
        for i, rows in enumerate(counts)
    ]

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)

    whole = sum(weight(rank) for rank in range(WORLD))
    entered = norm(torch.cat(residuals))
    first = sum(counts[:d])
    return entered, norm(residuals[d] + ffn(entered[first : first + counts[d]]) * whole)


def one_rank(rank: int, dp: int, ep: int, port: int, folder: pathlib.Path) -> dict[str, Any]:
    """Both paddings, stock and fused."""
    from sglang.srt.distributed.parallel_state import GroupCoordinator
    from sglang.srt.runtime_context import get_parallel

    import mixcomm
    from mixcomm.sglang import link, tally

    ranks.set_up(rank, WORLD // dp, dp, port, folder, ep_size=ep)
    parallel = get_parallel()
    recorder = Recorder(parallel)
    recorder.watch(GroupCoordinator)
    mine, stages, d = link.current(), layers(), rank // (WORLD // dp)
    right_exit = None if mine is None else mine.exit
    found: dict[str, Any] = {
        "moe_tp": parallel.moe_tp_size,
        "moe_ep": parallel.moe_ep_size,
        "linked": mine is not None,
        "forwards": {},
    }
    uneven = [2 * (i % 3) for i in range(dp)] if dp > 1 else [4]
    same = WORLD // dp
    with torch.no_grad():
        for name, counts, max_len in (("MAX_LEN", [same] * dp, True), ("SUM_LEN", uneven, False)):
            entered, read = expected(counts, dp, d)
            for who in ("stock", "fused", "left out") if mine is not None else ("stock",):
                link.replace(None if who == "stock" else mine)
                if mine is not None:
                    # "left out": the bug of this field, an exit that sums over attention's DP team alone
                    mine.exit = "reduce_scatter" if who == "left out" else right_exit
                tally.reset()
                got = forward(stages, batch(counts, max_len, counts[d]), counts, rank, dp, recorder)
                found["forwards"][f"{name} {who}"] = {
                    "entered": bool(torch.allclose(got[0].double(), entered, atol=1e-4)),
                    "read": bool(torch.allclose(got[1].double(), read, atol=1e-4)),
                    "calls": got[2],
                    "tally": tally.counters(),
                }
    link.replace(mine)
    if mine is not None:
        mine.exit = right_exit
    found["ops"] = None if mine is None else [mine.gather_partial, mine.exit]
    with mixcomm.LayerCommunicator(
        mixcomm.from_torch(parallel.tp_group.cpu_group),
        attn_tp=WORLD // dp,
        attn_dp=dp,
        moe_tp=parallel.moe_tp_size,
        moe_ep=parallel.moe_ep_size,
        layers=["moe", "moe"],
        hidden=HIDDEN,
    ) as planner:
        found["planner"] = [list(planner.before_mlp(0).steps), list(planner.after_mlp(0).steps)]
    return found


def main() -> None:
    """Forks the ranks of one spread after another, and writes what rank 0 found, and whether all agree."""
    out = pathlib.Path(sys.argv[1])
    os.environ.update({"SGLANG_USE_MIXED_COMM": "1", "SGLANG_NCCL_SO_PATH": "/nonexistent/libnccl.so"})
    folder = out.parent / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(ranks.MODEL))
    import sglang.srt.distributed.bootstrap
    import sglang.srt.layers.layer_boundary.boundary
    import sglang.srt.server_args  # noqa: F401

    whole = {}
    for dp in (1, 2, 4, 8):
        for ep in (1, 2, 4, 8):
            port, pids = ranks.free_port(), []
            for rank in range(WORLD):
                pid = os.fork()
                if pid == 0:
                    try:
                        found = one_rank(rank, dp, ep, port, folder)
                    except BaseException:
                        found = {"error": traceback.format_exc()}
                    pathlib.Path(f"{out}.{rank}").write_text(json.dumps(found))
                    os._exit(0)
                pids.append(pid)
            for pid in pids:
                os.waitpid(pid, 0)
            whole[f"attn {WORLD // dp}x{dp}, moe {WORLD // ep}x{ep}"] = [
                json.loads(pathlib.Path(f"{out}.{rank}").read_text()) for rank in range(WORLD)
            ]
            print(
                f"spreads: attention TP {WORLD // dp} x DP {dp}, experts TP {WORLD // ep} x EP {ep}",
                flush=True,
            )
    out.write_text(json.dumps(whole))


if __name__ == "__main__":
    main()
