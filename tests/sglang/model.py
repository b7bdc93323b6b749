"""The real Qwen3MoeModel of SGLang: its loop, its layers, their boundaries and norms, stock and on mixcomm.

Attention and experts are stand-ins that work on each row alone, so that every rank can compute what all ranks
give, and with it the whole model: by ordered sums, and with each step of an epilogue by itself.
"""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any

import torch
from cases import HIDDEN, Here, both, weighted

LAYERS = 4


def attention_of(hidden: torch.Tensor, t: int) -> torch.Tensor:
    """What TP rank t gives of attention's output."""
    return (hidden.float().roll(1, -1) * (0.3 + 0.2 * t)).to(hidden.dtype)


def experts_of(rows: torch.Tensor, rank: int) -> torch.Tensor:
    """What a rank gives of the experts' output."""
    return (rows.float().roll(3, -1) * (0.2 + 0.1 * rank)).to(rows.dtype)


class Attention(torch.nn.Module):
    """In the place of Qwen3MoeAttention."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, positions: Any, hidden_states: torch.Tensor, forward_batch: Any) -> torch.Tensor:
        """Leaves its sum over TP, as row-parallel projections under attention DP do."""
        from sglang.srt.runtime_context import get_parallel

        return attention_of(hidden_states, get_parallel().attn_tp_rank)


class Experts(torch.nn.Module):
    """In the place of Qwen3MoeSparseMoeBlock."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, forward_batch: Any = None) -> torch.Tensor:
        """0.5.17's sums by itself unless it is told to leave its sum; 0.5.23's never does."""
        import sglang
        from sglang.srt.runtime_context import get_forward, get_parallel

        parts = experts_of(hidden_states, get_parallel().tp_rank)
        if sglang.__version__ == "0.5.17" and not get_forward().mlp_reduce_scatter:
            return get_parallel().tp_group.all_reduce(parts)
        return parts


def model(dtype: torch.dtype) -> Any:
    """The model, with norms whose weights differ."""
    import ranks
    from sglang.srt.layers.layernorm import RMSNorm
    from sglang.srt.models import qwen3_moe
    from transformers import Qwen3MoeConfig

    qwen3_moe.Qwen3MoeAttention, qwen3_moe.Qwen3MoeSparseMoeBlock = Attention, Experts
    known = {k: v for k, v in ranks.MODEL.items() if k not in ("architectures", "model_type", "torch_dtype")}
    made = qwen3_moe.Qwen3MoeModel(Qwen3MoeConfig(**(known | {"num_hidden_layers": LAYERS})))
    norms = [module for module in made.modules() if isinstance(module, RMSNorm)]
    assert len(norms) == 2 * LAYERS + 1
    for number, norm in enumerate(norms):
        norm.weight.data = weighted(RMSNorm, dtype).weight.data.roll(number)
    return made.to(dtype)


def batch(here: Here, counts: list[int], max_len: bool, dtype: torch.dtype) -> Any:
    """A decode batch for the whole model."""
    made = here.batch(counts, max_len, dtype)
    made.input_ids = torch.zeros(counts[here.d], dtype=torch.int64)
    made.can_run_tbo, made.residual_stream, made.attn_tp_sequence_sharded = False, None, False
    return made


def forward(here: Here, made: Any, counts: list[int], max_len: bool, dtype: torch.dtype) -> torch.Tensor:
    """What this rank's head would read."""
    embeds = here.data(here.d, counts[here.d], dtype, 20)
    return made(None, None, batch(here, counts, max_len, dtype), input_embeds=embeds)


def expected(
    here: Here,
    made: Any,
    counts: list[int],
    dtype: torch.dtype,
    norms: Any,
    addition: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same, computed here alone. norms: which sums are rounded behind the residual, and normed by us.

    addition: what DP rank 0 adds to the residual in front of layer 2.
    """
    from mixcomm import Epilogue
    from mixcomm.sglang import link, norm

    mine = link.current()
    assert mine is not None
    f32 = torch.float32

    def ours(rows: torch.Tensor, layernorm: Any) -> torch.Tensor:
        steps = Epilogue(weight=layernorm.weight.data, eps=layernorm.variance_epsilon)
        return mine.communicator.apply(rows, steps)

    def stocks(layernorm: Any, rows: torch.Tensor, residual: torch.Tensor, *more: Any) -> Any:
        if rows.shape[0] == 0:
            return rows, residual
        return layernorm(rows.clone(), residual.clone(), *more)

    residual = [here.data(d, rows, dtype, 20) for d, rows in enumerate(counts)]
    hidden = [made.layers[0].input_layernorm(rows.clone()) if rows.shape[0] else rows for rows in residual]
    for number, layer in enumerate(made.layers):
        read = []
        for d in range(here.dp):
            parts = [attention_of(hidden[d], t) for t in range(here.tp)]
            if here.tp == 1:
                rows, residual[d] = stocks(layer.post_attention_layernorm, parts[0], residual[d])
            elif norms.gather:
                residual[d] = (here.ordered_sum(parts, f32) + residual[d].float()).to(dtype)
                rows = ours(residual[d], layer.post_attention_layernorm)
            else:
                residual[d] = here.ordered_sum([parts[0] + residual[d], *parts[1:]], dtype)
                rows = layer.post_attention_layernorm(residual[d].clone()) if counts[d] else residual[d]
            read.append(rows)
        parts = [experts_of(torch.cat(read), rank) for rank in range(here.tp * here.dp)]
        teams = [here.ordered_sum(parts[d * here.tp : (d + 1) * here.tp], f32) for d in range(here.dp)]
        sums = here.ordered_sum(teams, f32).split(counts)
        last = number == LAYERS - 1
        layernorm = made.norm if last else made.layers[number + 1].input_layernorm
        fused = norms.exit and not last and norm.fused_norm(layernorm, dtype) is not None
        for d in range(here.dp):
            more = [addition] if addition is not None and d == 0 and number == 1 else []
            if fused:
                before = residual[d] + more[0] if more else residual[d]
                residual[d] = (sums[d] + before.float()).to(dtype)
                hidden[d] = ours(residual[d], layernorm)
            else:
                hidden[d], residual[d] = stocks(layernorm, sums[d].to(dtype), residual[d], *more)
    return hidden[here.d]


@functools.cache
def _model(dtype: torch.dtype) -> Any:
    return model(dtype)


def whole_model(
    here: Here,
    counts: list[int],
    max_len: bool,
    dtype: torch.dtype,
    setting: str,
    *,
    check: bool = False,
    other_norm: bool = False,
    added: bool = False,
    left: str | None = None,
) -> dict[str, Any]:
    """With SGLANG_MIXED_COMM_NORM as given.

    check: SGLANG_MIXED_COMM_CHECK. other_norm: layer 2 has another norm than the operations know. added: DP
    rank 0 alone adds to its residual in front of layer 2. left: why exits are without the norm.
    """
    from mixcomm.sglang import compare, link, settings, tally

    mine = link.current()
    assert mine is not None
    asked, known = mine.asked, mine.exit_norm_left
    norms = settings.read({settings.NORM: setting}).norm
    made = _model(dtype)
    layer = made.layers[2]
    kind = type(layer.input_layernorm)
    addition = here.data(77, counts[0], dtype, 21)
    mine.asked = dataclasses.replace(asked, norm=norms, check=check)
    mine.exit_norm_left = left
    compare._seen.clear()
    try:
        if other_norm:
            layer.input_layernorm.__class__ = type("OtherNorm", (kind,), {})
        if added and here.d == 0:
            layer.forward = functools.partial(layer.forward, post_residual_addition=addition)
        with torch.no_grad():
            stock, ours, _ = both(lambda: forward(here, made, counts, max_len, dtype))
            by = tally.counters()
            effective = norms if left is None else dataclasses.replace(norms, exit=False)
            right = expected(here, made, counts, dtype, effective, addition if added else None)
    finally:
        layer.input_layernorm.__class__ = kind
        layer.__dict__.pop("forward", None)
        mine.asked, mine.exit_norm_left = asked, known
    return {
        "exact": torch.equal(ours, right),
        "close": bool(torch.allclose(stock.float(), ours.float(), rtol=0.05, atol=0.1)),
        "tally": by,
        "checked": {call: len(kinds) for call, kinds in compare._seen.items()},
    }


def rows_changed_between_layers(here: Here) -> dict[str, Any]:
    """A loop that is not what it was known to be: an error on all ranks, and the next forward is right."""
    from mixcomm.sglang import link, settings

    mine = link.current()
    assert mine is not None
    asked, dtype, counts = mine.asked, torch.bfloat16, [4] * here.dp
    made = _model(dtype)
    layer, inner = made.layers[1], made.layers[1].forward
    mine.asked = dataclasses.replace(asked, norm=settings.Norms(gather=True, exit=True))
    found: dict[str, Any] = {}

    def scaled(*given: Any, **more: Any) -> Any:
        hidden, residual = inner(*given, **more)
        return hidden * 2, residual

    def failing(*given: Any, **more: Any) -> Any:
        inner(*given, **more)
        raise ArithmeticError("a forward that ends in the middle")

    try:
        with torch.no_grad():
            for name, fn in (("changed", scaled), ("failed", failing)):
                layer.forward = fn
                try:
                    forward(here, made, counts, True, dtype)
                    found[name] = "no error"
                except Exception as error:
                    found[name] = f"{type(error).__name__}: {error}"
                layer.__dict__.pop("forward")
                ours = forward(here, made, counts, True, dtype)
                right = expected(here, made, counts, dtype, mine.asked.norm)
                found[f"after {name}"] = torch.equal(ours, right)
    finally:
        layer.__dict__.pop("forward", None)
        mine.asked = asked
    return found


def compiled(here: Here) -> dict[str, Any]:
    """Traced as a whole, without a break: exits as they are without the norm, none of which waits."""
    from mixcomm.sglang import exit_norm, link, settings, tally

    mine = link.current()
    assert mine is not None
    asked, dtype, counts = mine.asked, torch.float32, [4] * here.dp
    made = _model(dtype)
    embeds = here.data(here.d, counts[here.d], dtype, 20)
    mine.asked = dataclasses.replace(asked, norm=settings.Norms(gather=True, exit=True))
    tally.reset()
    try:
        with torch.no_grad():
            traced = torch.compile(made.forward, backend="aot_eager", fullgraph=True)
            ours = traced(None, None, batch(here, counts, True, dtype), input_embeds=embeds)
            waits = exit_norm._waiting is not None
            right = expected(here, made, counts, dtype, settings.Norms())
    finally:
        mine.asked = asked
    return {
        "close": bool(torch.allclose(ours, right, rtol=1e-5, atol=1e-5)),
        "waits": waits,
        "tally": tally.counters(),
    }


def deployments(here: Here) -> dict[str, str | None]:
    """Why exits of a deployment are without the norm, with 0.5.17."""
    from mixcomm.sglang import hooks_0_5_17

    def said(architecture: str | None = "Qwen3MoeForCausalLM", **arguments: Any) -> str | None:
        names = None if architecture is None else [architecture]
        config = SimpleNamespace(hf_config=SimpleNamespace(architectures=names))
        return hooks_0_5_17.exit_norm_left(SimpleNamespace(**arguments), config)

    return {
        "known": said(),
        "deepstack": said("Qwen3VLMoeForConditionalGeneration"),
        "unsaid": said(None),
        "draft": said(speculative_algorithm="EAGLE3"),
        "hooks": said(forward_hooks=[{}]),
        "dump": said(debug_tensor_dump_output_folder="x"),
        "compiled": said(enable_torch_compile=True),
    }


assert HIDDEN == 64  # as ranks.MODEL has it
