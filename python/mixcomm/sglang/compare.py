"""SGLANG_MIXED_COMM_CHECK=1: first calls of each kind, on random data, against SGLang's and the ordered sum.

All ranks decide alike what is compared, and compare before the real call. Nothing is compared while a CUDA
graph is captured or code is compiled; SGLang runs each shape once before it captures it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from ..epilogue import Epilogue
from ..errors import Error
from .link import Link
from .norm import Norm

logger = logging.getLogger("mixcomm.sglang")

_MOST_KINDS = 24  # of each call
_seen: dict[str, set[object]] = {}


def _new_kind(call: str, kind: object) -> bool:
    if torch.compiler.is_compiling():
        return False
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return False
    seen = _seen.setdefault(call, set())
    if kind in seen or len(seen) >= _MOST_KINDS:
        return False
    seen.add(kind)
    return True


def _random_like(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator(tensor.device).manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, device=tensor.device, dtype=torch.float32).to(
        tensor.dtype
    )


def _everyone(link: Link, mine: torch.Tensor, most_rows: int) -> list[torch.Tensor]:
    """Collective: what each rank of the TP group passed, padded to ``most_rows``."""
    padded = mine.new_zeros((most_rows, *mine.shape[1:]))
    padded[: mine.shape[0]].copy_(mine)
    found = [torch.empty_like(padded) for _ in range(link.communicator.world_size)]
    dist.all_gather(found, padded, group=link.tp_group.device_group)
    return found


def _ordered_sum(parts: list[torch.Tensor]) -> torch.Tensor:
    """In fp32, neighbours first: ((0 + 1) + (2 + 3)) + ..."""
    if len(parts) == 1:
        return parts[0].float()
    left = 2 ** ((len(parts) - 1).bit_length() - 1)
    return _ordered_sum(parts[:left]) + _ordered_sum(parts[left:])


def _judge(
    link: Link,
    call: str,
    op: str,
    rows: list[int],
    ours: torch.Tensor,
    stock: torch.Tensor,
    right: torch.Tensor,
) -> None:
    equal = torch.equal(ours, right)
    spread = float((stock.float() - right.float()).abs().max()) if right.numel() else 0.0
    scale = float(right.float().abs().max()) if right.numel() else 0.0
    text = (
        f"{call} as {op}, rows {rows}, {str(right.dtype).removeprefix('torch.')}: "
        f"{'equal to the ordered sum' if equal else 'NOT the ordered sum'}; SGLang's own differs from "
        f"it by up to {spread:.3g} "
        f"of {scale:.3g}"
    )
    # bf16 sums of a few ranks, rounded in another order; a sum left out or made twice differs by its own
    # size.
    close = spread <= 0.05 * max(scale, 1e-30)
    if not equal or not close:
        raise Error(f"mixcomm.sglang check, rank {link.communicator.rank}: {text}")
    if link.communicator.rank == 0:
        logger.info("mixcomm check: %s", text)


def compare_gather(
    link: Link,
    call: str,
    op: str,
    original: Callable[..., None],
    all_rows: torch.Tensor,
    local: torch.Tensor,
    forward_batch: Any,
    rows: list[int],
) -> None:
    """Collective: raises Error if ours is not the ordered sum, or SGLang's is far from it."""
    if not _new_kind(
        call, (tuple(rows), all_rows.dtype, str(getattr(forward_batch, "dp_padding_mode", None)))
    ):
        return
    communicator = link.communicator
    seed = 1 + (communicator.dp_rank if op == "all_gather" else communicator.rank)
    mine = _random_like(local.to(all_rows.dtype), seed)
    parts = _everyone(link, mine, max(max(rows), 1))
    blocks = []
    for d, count in enumerate(rows):
        of_team = [parts[d * communicator.tp + t][:count] for t in range(communicator.tp)]
        blocks.append(of_team[0] if op == "all_gather" else _ordered_sum(of_team).to(all_rows.dtype))
    right = torch.cat(blocks)
    ours, stock = torch.empty_like(all_rows), torch.empty_like(all_rows)
    own = mine[: rows[link.dp_rank]]
    if own.shape[0] < rows[link.dp_rank]:
        own = torch.cat([own, own.new_zeros((rows[link.dp_rank] - own.shape[0], *own.shape[1:]))])
    link.run(op, own, ours, rows)
    original(stock, mine.clone(), forward_batch)
    _judge(link, call, op, rows, ours, stock, right)


def compare_scatter(
    link: Link,
    call: str,
    op: str,
    original: Callable[[torch.Tensor, torch.Tensor], None],
    output: torch.Tensor,
    input: torch.Tensor,
    rows: list[int],
) -> None:
    """Collective: raises Error if ours is not the ordered sum, or SGLang's is far from it."""
    if not _new_kind(call, (tuple(rows), input.dtype)):
        return
    communicator = link.communicator
    mine = _random_like(input, 101 + communicator.rank)
    parts = _everyone(link, mine, input.shape[0])
    first = sum(rows[: link.dp_rank])
    own = slice(first, first + rows[link.dp_rank])
    groups = [
        _ordered_sum([parts[d * communicator.tp + t][own] for t in range(communicator.tp)])
        for d in range(communicator.dp)
    ]
    right = _ordered_sum(groups).to(input.dtype)
    ours, stock = torch.empty_like(right), torch.empty_like(right)
    link.run(op, mine, ours, rows)
    original(stock, mine.clone())
    _judge(link, call, op, rows, ours, stock, right)


def compare_entry(link: Link, call: str, all_rows: torch.Tensor, rows: list[int], norm: Norm) -> None:
    """Collective: raises Error if the new residual is not the ordered sum and the residual behind it, rounded
    once, or if the normed rows are not those of PyTorch's arithmetic, but for one rounding.
    """
    if not _new_kind(call, (tuple(rows), all_rows.dtype, norm.eps, norm.plus_one)):
        return
    communicator = link.communicator
    own = all_rows.new_empty((rows[link.dp_rank], *all_rows.shape[1:]))
    mine = _random_like(own, 201 + communicator.rank)
    residual = _random_like(own, 301 + communicator.dp_rank)
    parts = _everyone(link, mine, max(max(rows), 1))
    residuals = _everyone(link, residual, max(max(rows), 1))
    sums = []
    for d, number in enumerate(rows):
        first = d * communicator.tp
        team = [parts[first + t][:number] for t in range(communicator.tp)]
        sums.append((_ordered_sum(team) + residuals[first][:number].float()).to(all_rows.dtype))
    ours, kept = torch.empty_like(all_rows), torch.empty_like(residual)
    link.run("all_reduce_all_gather", mine, ours, rows, _epilogue(residual, kept, norm))
    _judge_norm(link, call, rows, norm, kept, sums[link.dp_rank], ours, torch.cat(sums))


def compare_exit(link: Link, call: str, all_rows: torch.Tensor, rows: list[int], norm: Norm) -> None:
    """Collective: the same of the exit, whose rows are this DP rank's."""
    if not _new_kind(call, (tuple(rows), all_rows.dtype, norm.eps, norm.plus_one)):
        return
    communicator = link.communicator
    first = sum(rows[: link.dp_rank])
    own = slice(first, first + rows[link.dp_rank])
    mine = _random_like(all_rows, 401 + communicator.rank)
    residual = _random_like(all_rows[own], 501 + communicator.dp_rank)
    parts = _everyone(link, mine, all_rows.shape[0])
    groups = [
        _ordered_sum([parts[d * communicator.tp + t][own] for t in range(communicator.tp)])
        for d in range(communicator.dp)
    ]
    right = (_ordered_sum(groups) + residual.float()).to(all_rows.dtype)
    ours, kept = torch.empty_like(right), torch.empty_like(right)
    link.run(link.exit, mine, ours, rows, _epilogue(residual, kept, norm))
    _judge_norm(link, call, rows, norm, kept, right, ours, right)


def _epilogue(residual: torch.Tensor, kept: torch.Tensor, norm: Norm) -> Epilogue:
    return Epilogue(
        residual=residual, residual_out=kept, weight=norm.weight, eps=norm.eps, weight_plus_one=norm.plus_one
    )


def _judge_norm(
    link: Link,
    call: str,
    rows: list[int],
    norm: Norm,
    kept: torch.Tensor,
    right: torch.Tensor,
    normed: torch.Tensor,
    before: torch.Tensor,
) -> None:
    """Raises unless kept is right, and normed what the norm makes of the rows before it."""
    exact = torch.equal(kept, right)
    x = before.float()
    weight = norm.weight.float() + (1.0 if norm.plus_one else 0.0)
    wanted = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps) * weight
    step = max(torch.finfo(normed.dtype).eps, 1e-6)  # in fp32 the squares are summed in another order
    near = bool(torch.allclose(normed.float(), wanted, rtol=2 * step, atol=step * 1e-3))
    text = (
        f"{call}, rows {rows}, {str(normed.dtype).removeprefix('torch.')}: residual "
        f"{'equal to' if exact else 'NOT'} the ordered sum, normed rows "
        f"{'' if near else 'NOT '}within a rounding"
    )
    if not exact or not near:
        raise Error(f"mixcomm.sglang check, rank {link.communicator.rank}: {text}")
    if link.communicator.rank == 0:
        logger.info("mixcomm check: %s", text)
