"""What each rank of ranks.py runs: SGLang's own functions, left to SGLang and on mixcomm, on the same data.

A case gives {"error": text} or what was found: {"fused": whether mixcomm ran it, "stock": bits equal to
SGLang's, "exact": bits equal to the ordered sum}.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from releases import release

HIDDEN = 64
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
# Rows of each DP rank: even, uneven, an idle rank, odd numbers.
COUNTS = {
    2: [[4, 4], [2, 6], [0, 4], [3, 5], [1, 1], [33, 2]],
    4: [[4, 4, 4, 4], [2, 0, 6, 4], [1, 3, 5, 0], [1, 1, 1, 1], [17, 2, 1, 1]],
    1: [[4]],
}


class Here:
    """Who this rank is, and the real functions of SGLang."""

    def __init__(self, rank: int, tp: int, dp: int) -> None:
        from sglang.srt.layers import dp_attention

        self.rank, self.tp, self.dp = rank, tp, dp
        self.t, self.d = rank % tp, rank // tp
        self.dp_attention = dp_attention
        self.release = release(tp)

    def data(self, rank: int, rows: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
        """What ``rank`` passes; each rank can say it of all."""
        generator = torch.Generator().manual_seed(1000 * seed + rank)
        return torch.randn(rows, HIDDEN, generator=generator).to(dtype)

    def ordered_sum(self, parts: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """In fp32, neighbours first, rounded once."""
        sums = [part.float() for part in parts]
        while len(sums) > 1:
            pairs = [left + right for left, right in zip(sums[::2], sums[1::2], strict=False)]
            sums = pairs + sums[2 * len(pairs) :]
        return sums[0].to(dtype)

    def gathered(self, counts: list[int], dtype: torch.dtype, seed: int, partial: bool) -> torch.Tensor:
        """What a gather must give."""
        blocks = []
        for d, rows in enumerate(counts):
            if partial:
                team = [self.data(d * self.tp + t, rows, dtype, seed) for t in range(self.tp)]
                blocks.append(self.ordered_sum(team, dtype))
            else:
                blocks.append(self.data(d, rows, dtype, seed))
        return torch.cat(blocks)

    def scattered(self, counts: list[int], dtype: torch.dtype, seed: int) -> torch.Tensor:
        """What an exit must give this rank: over t within each DP group, then over the groups."""
        first, total = sum(counts[: self.d]), sum(counts)
        groups = []
        for d in range(self.dp):
            team = [self.data(d * self.tp + t, total, dtype, seed).float() for t in range(self.tp)]
            groups.append(self.ordered_sum(team, torch.float32))
        return self.ordered_sum(groups, dtype)[first : first + counts[self.d]]

    def batch(self, counts: list[int], max_len: bool, dtype: torch.dtype) -> Any:
        """A batch as prepare_mlp_sync_batch leaves it, and SGLang's sizes set by it."""
        from sglang.srt.model_executor.forward_batch_info import ForwardMode

        modes = self.dp_attention.DpPaddingMode
        self.dp_attention._DpGatheredBufferWrapper.set_metadata(HIDDEN, dtype, torch.device("cpu"))
        made = SimpleNamespace(
            global_num_tokens_cpu=list(counts),
            global_num_tokens_padded_cpu=list(counts),
            global_num_tokens_gpu=torch.tensor(counts, dtype=torch.int64),
            global_num_tokens_for_logprob_cpu=[1] * len(counts),
            global_dp_buffer_len=sum(counts),
            dp_padding_mode=modes.MAX_LEN if max_len else modes.SUM_LEN,
            dp_local_start_pos=None,
            dp_local_num_tokens=None,
            forward_mode=ForwardMode.DECODE,
            attn_cp_metadata=None,
        )
        self.release.set_sizes(made, self.d)
        return made


def both(action: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Runs it left to SGLang, and on mixcomm: (SGLang's, ours, whether mixcomm ran)."""
    from mixcomm.sglang import link, tally

    mine = link.current()
    link.replace(None)
    try:
        stock = action()
    finally:
        link.replace(mine)
    tally.reset()
    ours = action()
    fused = any("fused" in by for by in tally.counters().values())
    return stock, ours, fused


def judged(
    stock: torch.Tensor | None, ours: torch.Tensor, right: torch.Tensor, fused: bool
) -> dict[str, Any]:
    """What a case found."""
    return {
        "fused": fused,
        "stock": None if stock is None else torch.equal(stock, ours),
        "close": None
        if stock is None
        else bool(torch.allclose(stock.float(), ours.float(), rtol=0.02, atol=0.05)),
        "exact": torch.equal(ours, right),
    }


def gather(here: Here, partial: bool, counts: list[int], max_len: bool, dtype: torch.dtype) -> dict[str, Any]:
    """dp_gather_partial, dp_gather_replicate."""
    fn = here.dp_attention.dp_gather_partial if partial else here.dp_attention.dp_gather_replicate
    source = here.rank if partial else here.d

    def action() -> torch.Tensor:
        batch = here.batch(counts, max_len, dtype)
        all_rows = here.dp_attention.get_global_dp_buffer(None)
        all_rows.fill_(7)
        fn(all_rows, here.data(source, counts[here.d], dtype, 1), batch)
        return all_rows

    stock, ours, fused = both(action)
    return judged(stock, ours, here.gathered(counts, dtype, 1, partial), fused)


def strided_on_one_rank(here: Here, counts: list[int]) -> dict[str, Any]:
    """One rank passes a view with gaps: it is fused all the same, for the others cannot know."""
    dtype = torch.bfloat16

    def action() -> torch.Tensor:
        batch = here.batch(counts, False, dtype)
        all_rows = here.dp_attention.get_global_dp_buffer(None)
        local = here.data(here.rank, counts[here.d], dtype, 2)
        if here.rank == 0:
            wide = torch.zeros(local.shape[0], 2 * HIDDEN, dtype=dtype)
            wide[:, ::2] = local
            local = wide[:, ::2]
            from mixcomm.sglang import link

            if link.current() is None:
                local = local.contiguous()  # SGLang's own wants it so
        here.dp_attention.dp_gather_partial(all_rows, local, batch)
        return all_rows

    stock, ours, fused = both(action)
    return judged(stock, ours, here.gathered(counts, dtype, 2, True), fused)


def other_rows(here: Here) -> dict[str, Any]:
    """A rank with more rows than the counts say, and one with fewer: cut, and filled with zeros."""
    dtype, counts = torch.float32, [4] * here.dp
    batch = here.batch(counts, False, dtype)
    all_rows = here.dp_attention.get_global_dp_buffer(None)
    mine = here.data(here.rank, 4, dtype, 3)
    given = torch.cat([mine, mine]) if here.d == 0 else mine[:3]
    here.dp_attention.dp_gather_partial(all_rows, given, batch)
    right = here.gathered(counts, dtype, 3, True)
    for d in range(1, here.dp):
        right[4 * d + 3] = 0
    return judged(None, all_rows, right, True)


def other_dtypes(here: Here) -> dict[str, Any]:
    """One rank's rows have another dtype, and an exit's output: converted, as SGLang's copies do."""
    counts = [4] * here.dp
    batch = here.batch(counts, False, torch.float32)
    all_rows = here.dp_attention.get_global_dp_buffer(None)
    mine = here.data(here.rank, 4, torch.bfloat16, 13)
    here.dp_attention.dp_gather_partial(all_rows, mine if here.rank == 0 else mine.float(), batch)
    right = torch.cat(
        [
            here.ordered_sum(
                [here.data(d * here.tp + t, 4, torch.bfloat16, 13) for t in range(here.tp)], torch.float32
            )
            for d in range(here.dp)
        ]
    )
    given = here.data(here.rank, sum(counts), torch.float32, 14)
    out = torch.full((6, HIDDEN), 7.0, dtype=torch.bfloat16)
    here.dp_attention.dp_reduce_scatter_tensor(out, given)
    wanted = torch.zeros(6, HIDDEN, dtype=torch.bfloat16)
    wanted[:4] = here.scattered(counts, torch.float32, 14).bfloat16()
    return {"fused": True, "exact": torch.equal(all_rows, right) and torch.equal(out, wanted)}


def logits(here: Here, counts: list[int]) -> dict[str, Any]:
    """The gather in front of the head, by counts of its own, with SGLang's own metadata."""
    from sglang.srt.layers.logits_processor import LogitsMetadata
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    dtype = torch.bfloat16

    def action() -> torch.Tensor:
        here.batch([8] * here.dp, True, dtype)  # the forward's counts are others
        metadata = LogitsMetadata(
            forward_mode=ForwardMode.EXTEND,
            global_num_tokens_for_logprob_cpu=list(counts),
            global_num_tokens_for_logprob_gpu=torch.tensor(counts),
            dp_padding_mode=here.dp_attention.DpPaddingMode.SUM_LEN,
        )
        metadata.compute_dp_attention_metadata()
        here.dp_attention.dp_gather_replicate(
            metadata.gathered_buffer, here.data(here.d, counts[here.d], dtype, 4), metadata
        )
        return metadata.gathered_buffer

    stock, ours, fused = both(action)
    return judged(stock, ours, here.gathered(counts, dtype, 4, False), fused)


def exit_of_ffn(here: Here, counts: list[int], max_len: bool, dtype: torch.dtype) -> dict[str, Any]:
    """The way back: what SGLang decides before the FFN runs, and the exit itself."""
    reduces_first: list[bool] = []

    def action() -> torch.Tensor:
        batch = here.batch(counts, max_len, dtype)
        given = here.data(here.rank, sum(counts), dtype, 5)
        return here.release.exit(batch, given, reduces_first)

    stock, ours, fused = both(action)
    return judged(stock, ours, here.scattered(counts, dtype, 5), fused) | {
        "stock_reduces_first": reduces_first[0],
        "we_reduce_first": reduces_first[1],
    }


def exit_reduced_already(here: Here, counts: list[int]) -> dict[str, Any]:
    """An FFN that may not leave its sum: no exit pays it, so nothing is summed twice."""
    batch = here.batch(counts, False, torch.bfloat16)
    return {"sum_left": here.release.sum_left_by_an_ffn_that_may_not(batch)}


def reduce_scatterv(here: Here, counts: list[int]) -> dict[str, Any]:
    """SGLang's reduce_scatterv, which it has for attention TP 1; gloo has none to compare with."""
    from mixcomm.sglang import tally

    batch = here.batch(counts, False, torch.bfloat16)
    tally.reset()
    ours = here.release.reduce_scatterv(batch, here.data(here.rank, sum(counts), torch.bfloat16, 6))
    fused = "fused" in tally.counters().get("reduce_scatterv", {})
    return judged(None, ours, here.scattered(counts, torch.bfloat16, 6), fused)


def weighted(kind: Callable[[int], Any], dtype: torch.dtype) -> Any:
    """A norm of SGLang's whose weights differ."""
    norm = kind(HIDDEN)
    norm.weight.data = torch.linspace(0.5, 1.5, HIDDEN)
    return norm.to(dtype)


def entry(here: Here, counts: list[int], max_len: bool, dtype: torch.dtype) -> dict[str, Any]:
    """The whole way into the FFN under attention TP: residual on TP rank 0, gather, own rows, norm."""
    from sglang.srt.layers.layernorm import RMSNorm

    norm = weighted(RMSNorm, dtype)
    found: list[torch.Tensor] = []
    residuals: list[torch.Tensor] = []

    def action() -> torch.Tensor:
        batch = here.batch(counts, max_len, dtype)
        residual = here.data(here.d, counts[here.d], dtype, 8)
        hidden, residual = here.release.entry(
            batch, here.data(here.rank, counts[here.d], dtype, 7), residual, norm
        )
        residuals.append(residual.clone())
        found.append(hidden)
        residual += 1  # as the next layer does; the FFN's input must not change with it
        return hidden

    with torch.no_grad():
        stock, ours, fused = both(action)
    return {
        "fused": fused,
        "stock": torch.equal(stock, ours),
        "exact": torch.equal(residuals[0], residuals[1]),
        "close": True,
    }


def entry_with_norm(
    here: Here, counts: list[int], max_len: bool, dtype: torch.dtype, gemma: bool = False
) -> dict[str, Any]:
    """The same with SGLANG_MIXED_COMM_NORM=1: one operation, whose sum is rounded once, residual included."""
    from dataclasses import replace

    from sglang.srt.layers.layernorm import GemmaRMSNorm, RMSNorm

    from mixcomm import Epilogue
    from mixcomm.sglang import link, settings

    mine = link.current()
    assert mine is not None
    norm = weighted(GemmaRMSNorm if gemma else RMSNorm, dtype)
    found: list[torch.Tensor] = []
    residuals: list[torch.Tensor] = []

    def action() -> torch.Tensor:
        batch = here.batch(counts, max_len, dtype)
        residual = here.data(here.d, counts[here.d], dtype, 8)
        given = here.data(here.rank, counts[here.d], dtype, 7)
        hidden, residual = here.release.entry(batch, given, residual, norm)
        residuals.append(residual.clone())
        found.append(hidden)
        return hidden

    asked = mine.asked
    mine.asked = replace(asked, norm=settings.Norms(gather=True))
    try:
        with torch.no_grad():
            stock, ours, fused = both(action)
    finally:
        mine.asked = asked
    blocks = []
    for d, rows in enumerate(counts):
        team = [here.data(d * here.tp + t, rows, dtype, 7) for t in range(here.tp)]
        total = here.ordered_sum(team, torch.float32) + here.data(d, rows, dtype, 8).float()
        blocks.append(total.to(dtype))
    steps = Epilogue(weight=norm.weight.data, eps=norm.variance_epsilon, weight_plus_one=gemma)
    right = mine.communicator.apply(torch.cat(blocks), steps)
    return judged(stock, ours, right, fused) | {"residual": torch.equal(residuals[1], blocks[here.d])}


def entry_norm_first(here: Here, counts: list[int], max_len: bool) -> dict[str, Any]:
    """The way into the FFN with attention TP 1: the norm first, then the gather."""
    from sglang.srt.layers.layernorm import RMSNorm

    dtype = torch.bfloat16
    norm = RMSNorm(HIDDEN).to(dtype)

    def action() -> torch.Tensor:
        batch = here.batch(counts, max_len, dtype)
        given = [here.data(here.rank, counts[here.d], dtype, seed) for seed in (9, 10)]
        return here.release.entry(batch, *given, norm)[0]

    with torch.no_grad():
        stock, ours, fused = both(action)
    return judged(stock, ours, stock, fused)


def compiled(here: Here) -> dict[str, Any]:
    """Traced by Dynamo without a break, for two sets of counts."""
    from mixcomm.sglang import link

    dtype = torch.float32

    def step(all_rows: torch.Tensor, local: torch.Tensor, batch: Any) -> torch.Tensor:
        here.dp_attention.dp_gather_partial(all_rows, local * 2, batch)
        return all_rows + 1

    def scatter(out: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        here.dp_attention.dp_reduce_scatter_tensor(out, given)
        return out * 2

    traced = torch.compile(step, backend="aot_eager", fullgraph=True)
    traced_scatter = torch.compile(scatter, backend="aot_eager", fullgraph=True)
    right, exact = None, True
    with torch.inference_mode():
        for counts in ([4] * here.dp, [2 + 2 * d for d in range(here.dp)]):
            batch = here.batch(counts, len(set(counts)) == 1, dtype)
            all_rows = torch.empty(sum(counts), HIDDEN, dtype=dtype)
            ours = traced(all_rows, here.data(here.rank, counts[here.d], dtype, 11), batch)
            right = torch.cat(
                [
                    here.ordered_sum(
                        [2 * here.data(d * here.tp + t, rows, dtype, 11) for t in range(here.tp)], dtype
                    )
                    for d, rows in enumerate(counts)
                ]
            )
            exact = exact and torch.equal(ours, right + 1)
            out = torch.empty(counts[here.d], HIDDEN, dtype=dtype)
            ours = traced_scatter(out, here.data(here.rank, sum(counts), dtype, 12))
            exact = exact and torch.equal(ours, 2 * here.scattered(counts, dtype, 12))
    return {"fused": link.current() is not None, "exact": exact, "stock": True, "close": True}


def left(here: Here) -> dict[str, Any]:
    """What each refusal of a call counts as; SGLang's own is called once, on all ranks."""

    import mixcomm.sglang.boundary as boundary
    from mixcomm.sglang import link, tally

    mine = link.current()
    assert mine is not None
    found: dict[str, Any] = {}

    def refused(
        name: str,
        counts: list[int],
        dtype: torch.dtype = torch.bfloat16,
        rows: int | None = None,
        **more: Any,
    ) -> None:
        tally.reset()
        calls = []
        batch = here.batch(counts, False, torch.bfloat16)
        all_rows = torch.empty(sum(counts) if rows is None else rows, HIDDEN, dtype=dtype)
        local = torch.empty(counts[here.d] if here.d < len(counts) else 0, HIDDEN, dtype=dtype)
        boundary.gather_partial(lambda *given: calls.append(len(given)), all_rows, local, batch, **more)
        (reason,) = tally.counters()["dp_gather_partial"]
        found[name] = [reason, len(calls)]

    counts = [4] * here.dp
    refused("fp64", counts, torch.float64)
    refused("int32", counts, torch.int32)
    refused("fp8", counts, torch.float8_e4m3fn)
    refused("rows", counts, rows=4 * here.dp + 1)
    refused("idle", [0] * here.dp)
    refused("context shards", counts, cp_shard_counts=[4])
    refused("large", [4000] * here.dp)
    with here.release.draft():
        refused("draft", counts)
    if here.dp > 1:
        batch_counts = here.dp_attention._DpGatheredBufferWrapper
        here.batch(counts, False, torch.bfloat16)
        batch_counts._global_num_tokens = [4]
        tally.reset()
        calls: list[int] = []
        boundary.gather_partial(
            lambda *given: calls.append(1),
            torch.empty(4, HIDDEN, dtype=torch.bfloat16),
            torch.empty(4, HIDDEN, dtype=torch.bfloat16),
            SimpleNamespace(global_num_tokens_cpu=[4]),
        )
        (reason,) = tally.counters()["dp_gather_partial"]
        found["no counts"] = [reason, len(calls)]
    if here.tp == 1:
        here.dp_attention._USE_DP_GATHERV = True
        refused("gatherv", counts)
        here.dp_attention._USE_DP_GATHERV = False
    return found


def noted(here: Here) -> dict[str, Any]:
    """A prefill graph that has a fused gather is known to SGLang to have one."""
    from sglang.srt.runtime_context import get_flags

    dp = get_flags().dp
    if not hasattr(dp, "capturing_prefill_graph"):  # 0.5.17
        return {"entered": True, "left": True}
    dp.capturing_prefill_graph, dp.prefill_graph_has_dp_gather = True, False
    gather(here, True, [4] * here.dp, True, torch.bfloat16)
    entered = dp.prefill_graph_has_dp_gather
    dp.prefill_graph_has_dp_gather = False
    exit_of_ffn(here, [4] * here.dp, True, torch.bfloat16)
    left_again = dp.prefill_graph_has_dp_gather
    dp.capturing_prefill_graph = False
    return {"entered": entered, "left": left_again}


def checked(here: Here) -> dict[str, Any]:
    """SGLANG_MIXED_COMM_CHECK=1: right calls pass, and a wrong one is found by the ranks that have it."""
    import dataclasses

    from mixcomm.errors import Error
    from mixcomm.sglang import boundary, compare, link

    mine = link.current()
    assert mine is not None
    mine.asked = dataclasses.replace(mine.asked, check=True)
    compare._seen.clear()
    gather(here, True, [2, 4, 6, 8][: here.dp], False, torch.bfloat16)
    gather(here, False, [2, 4, 6, 8][: here.dp], False, torch.bfloat16)
    exit_of_ffn(here, [2, 4, 6, 8][: here.dp], False, torch.bfloat16)
    kinds = {call: len(seen) for call, seen in compare._seen.items()}
    compare._seen.clear()
    wrong = ""
    honest, boundary.note_gather = mine.gather_partial, boundary.note_gather
    try:
        mine.gather_partial = "all_gather"  # a sum that is not made
        if here.tp > 1:
            try:
                gather(here, True, [4] * here.dp, True, torch.float32)
            except Error as error:
                wrong = str(error)
    finally:
        mine.gather_partial = honest
        mine.asked = dataclasses.replace(mine.asked, check=False)
    return {"kinds": kinds, "wrong": wrong}


def a_rank_ends(here: Here) -> dict[str, Any]:
    """The last rank leaves; the others are told, by name, from SGLang's function. The last case of all."""
    import os

    from mixcomm.errors import Timeout

    if here.rank == here.tp * here.dp - 1:
        return {"gone": True}
    os.environ.pop("_", None)
    batch = here.batch([4] * here.dp, True, torch.bfloat16)
    all_rows = here.dp_attention.get_global_dp_buffer(None)
    try:
        here.dp_attention.dp_gather_partial(all_rows, here.data(here.rank, 4, torch.bfloat16, 1), batch)
    except Timeout as error:
        return {"missing": list(error.missing), "text": str(error)}
    return {"missing": []}


def run(rank: int, tp: int, dp: int) -> dict[str, Any]:
    """All cases, in the same order on all ranks."""
    import model
    import sglang

    from mixcomm.sglang import link

    here = Here(rank, tp, dp)
    found: dict[str, Any] = {"linked": link.current() is not None}
    if link.current() is None:
        return found

    def case(name: str, fn: Callable[..., Any], *arguments: Any) -> None:
        try:
            found[name] = fn(here, *arguments)
        except Exception:
            found[name] = {"error": traceback.format_exc()}

    for counts in COUNTS[dp]:
        even = len(set(counts)) == 1
        for max_len in (True, False) if even and counts[0] % tp == 0 else (False,):
            label = f"{'MAX_LEN' if max_len else 'SUM_LEN'} {counts}"
            for dtype_name, dtype in DTYPES.items():
                case(f"gather_partial {label} {dtype_name}", gather, True, counts, max_len, dtype)
                case(f"gather_replicate {label} {dtype_name}", gather, False, counts, max_len, dtype)
                case(f"exit {label} {dtype_name}", exit_of_ffn, counts, max_len, dtype)
                if tp > 1:
                    case(f"entry {label} {dtype_name}", entry, counts, max_len, dtype)
                    case(f"with_norm {label} {dtype_name}", entry_with_norm, counts, max_len, dtype)
            if tp == 1:
                case(f"entry_norm_first {label}", entry_norm_first, counts, max_len)
                case(f"reduce_scatterv {label}", reduce_scatterv, counts)
        if tp > 1:
            case(f"with_norm gemma {counts}", entry_with_norm, counts, False, torch.bfloat16, True)
        case(f"logits {counts}", logits, counts)
        case(f"reduced_already {counts}", exit_reduced_already, counts)
    for counts in COUNTS[dp]:
        even = len(set(counts)) == 1 and counts[0] % tp == 0
        for max_len in (True, False) if even else (False,):
            for setting in ("1", "exit", "gather"):
                for dtype in ("bf16", "fp32"):
                    name = f"model {setting} {'MAX_LEN' if max_len else 'SUM_LEN'} {counts} {dtype}"
                    case(name, model.whole_model, counts, max_len, DTYPES[dtype], setting)
    for name, more in (
        ("checked", {"check": True}),
        ("other norm", {"other_norm": True}),
        ("added", {"added": True}),
        ("left", {"left": "this model is not known"}),
    ):
        given = (COUNTS[dp][1], False, torch.bfloat16, "1")
        case(f"of the model: {name}", functools.partial(model.whole_model, **more), *given)
    if sglang.__version__ == "0.5.17":
        case("of the model: rows changed", model.rows_changed_between_layers)
        case("of the model: deployments", model.deployments)
        if tp > 1:
            case("of the model: compiled", model.compiled)
    case("strided", strided_on_one_rank, COUNTS[dp][1])
    case("other_rows", other_rows)
    case("other_dtypes", other_dtypes)
    case("left", left)
    case("noted", noted)
    case("compiled", compiled)
    case("checked", checked)
    case("a_rank_ends", a_rank_ends)
    return found
