"""Which deployments are served: those whose boundaries are attention TP x DP on one host, and no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Deployment:
    """What of SGLang's configuration decides; the same on all ranks."""

    attn_tp: int
    attn_dp: int
    attn_cp: int = 1
    moe_dp: int = 1
    tp: int = 0
    hosts: int = 1
    device: str = "cuda"
    elastic_ep: bool = False
    two_batch_overlap: bool = False
    pd_multiplexing: bool = False
    rocm: bool = False
    built_with_cuda: bool = True


def refusal(d: Deployment) -> str | None:
    """Why this deployment is left to SGLang, with the way out; None: it is served."""
    if d.attn_dp <= 1:
        return (
            f"there is no attention DP (attention TP {d.attn_tp} x DP {d.attn_dp}), so there is "
            f"nothing to fuse; start "
            "SGLang with --enable-dp-attention --dp N, N > 1"
        )
    if d.attn_cp > 1:
        return f"attention runs with context parallelism (--attn-cp-size {d.attn_cp}), of other teams"
    if d.moe_dp > 1:
        return f"the experts run with data parallelism (--moe-dp-size {d.moe_dp}), so sums are of other teams"
    if d.tp != d.attn_tp * d.attn_dp:
        return (
            f"the TP group has {d.tp} ranks, which are no grid of attention TP {d.attn_tp} x DP {d.attn_dp}"
        )
    if d.elastic_ep:
        return "elastic EP (--elastic-ep-backend, --max-ep-size) changes which ranks there are"
    if d.two_batch_overlap:
        return "--enable-two-batch-overlap runs collectives on a second stream; drop one of the two"
    if d.pd_multiplexing:
        return "--enable-pdmux has two TP groups that run at the same time; drop one of the two"
    if d.hosts > 1:
        return f"the server has {d.hosts} hosts (--nnodes), and a communicator's ranks share one"
    if d.device not in ("cuda", "cpu") or d.rocm:
        return f"the device is {'ROCm' if d.rocm else d.device}; mixcomm has CUDA and CPU"
    if d.device == "cuda" and not d.built_with_cuda:
        return "this mixcomm was built without CUDA; build it where nvcc is (docs/python.md)"
    return None


def read(server_args: Any) -> Deployment:
    """The deployment as SGLang has set it up; its groups must have been made."""
    import torch
    from sglang.srt.runtime_context import get_parallel

    from .. import _core

    parallel = get_parallel()

    def argument(name: str, default: Any) -> Any:
        return getattr(server_args, name, default)

    return Deployment(
        attn_tp=parallel.attn_tp_size,
        attn_dp=parallel.attn_dp_size,
        attn_cp=parallel.attn_cp_size,
        moe_dp=parallel.moe_dp_size,
        tp=parallel.tp_size,
        hosts=argument("nnodes", 1) or 1,
        device=torch.device(argument("device", None) or "cuda").type,
        elastic_ep=bool(argument("elastic_ep_backend", None) or argument("max_ep_size", None)),
        two_batch_overlap=bool(argument("enable_two_batch_overlap", False)),
        pd_multiplexing=bool(argument("enable_pdmux", False)),
        rocm=getattr(torch.version, "hip", None) is not None,
        built_with_cuda=bool(_core.built_with_cuda),
    )
