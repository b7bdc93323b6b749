"""The way out of the FFN with what the next layer begins with: its residual's sum and its input's norm.

One operation sums over all ranks, brings the own rows back, adds the residual and norms. SGLang 0.5.23
leaves an exit to the next layer by itself. 0.5.17 does not: there the FFN's rows wait here, as it left them,
from the end of one layer to the beginning of the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from . import tally
from .boundary import note_gather, row_counts, run_with_norm
from .compare import compare_exit
from .decide import left_because
from .link import Link, current
from .norm import fused_norm

CALL = "exit with residual and norm"

Output = tuple[torch.Tensor, Any]


def wanted() -> bool:
    """Whether exits are asked for with residual and norm; compiled code has them as they are."""
    link = current()
    return link is not None and link.asked.norm.exit and not torch.compiler.is_compiling()


def _left_because(link: Link, all_rows: torch.Tensor) -> str | None:
    return link.exit_norm_left or left_because(
        link, row_counts(), all_rows.shape[0], all_rows.shape[1], all_rows.dtype
    )


def finish(
    all_rows: torch.Tensor, residual: torch.Tensor, layernorm: Any, addition: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What the next layer's attention reads, and the new residual, in the place of the old one.

    all_rows: this rank's part of the FFN's output, of all DP ranks' rows. addition: SGLang's
    post_residual_addition, which single ranks may have; it goes into the residual before. None where the exit
    is to run as it does without this, alike on all ranks.
    """
    link = current()
    if link is None or not wanted():
        return None
    norm = fused_norm(layernorm, all_rows.dtype)
    left = _left_because(link, all_rows) or (tally.OTHER_NORM if norm is None else None)
    tally.count(CALL, left or tally.FUSED)
    rows = row_counts()
    if left is not None or norm is None or rows is None:
        return None
    if link.asked.check:
        compare_exit(link, CALL, all_rows, rows, norm)
    note_gather()
    if addition is not None and residual.shape[0]:
        residual = residual + addition
    mine = rows[link.dp_rank]
    normed = all_rows.new_empty((mine, all_rows.shape[1]))
    run_with_norm(link, link.exit, all_rows, normed, rows, residual, norm)
    if mine != residual.shape[0]:
        whole = normed.new_zeros(residual.shape)
        both = min(mine, residual.shape[0])
        whole[:both].copy_(normed[:both])
        normed = whole
    return normed, residual


class Waiting(NamedTuple):
    """An exit that the next layer runs: the FFN's rows, and the exit as it is without residual and norm."""

    all_rows: torch.Tensor
    plain: Callable[[], Output]


_waiting: Waiting | None = None


def wait(all_rows: torch.Tensor, last_layer: bool, plain: Callable[[], Output]) -> bool:
    """Leaves an exit to the next layer, which takes it by taken(); False: it is to run now.

    Only where nothing between two layers reads the rows: link.exit_norm_left says which models are known.
    """
    global _waiting
    link = current()
    if link is None or not wanted():
        return False
    left = tally.LAST_LAYER if last_layer else _left_because(link, all_rows)
    if left is not None:
        tally.count(CALL, left)
        return False
    _waiting = Waiting(all_rows, plain)
    return True


def taken(hidden_states: torch.Tensor, residual: torch.Tensor | None) -> Waiting | None:
    """The exit that waits for this layer. Raises RuntimeError if these are not the rows that it left."""
    global _waiting
    if _waiting is None:
        return None
    waiting, _waiting = _waiting, None
    ours = hidden_states is waiting.all_rows
    if residual is None and not ours:  # a first layer: what still waits is of a forward that has failed
        return None
    if residual is None or not ours or torch.compiler.is_compiling():
        raise RuntimeError(
            "mixcomm.sglang: between two layers this model reads or changes rows whose sum is not made yet; "
            "set SGLANG_MIXED_COMM_NORM=gather, and report it"
        )
    return waiting
