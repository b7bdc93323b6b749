"""SGLang's own boundary functions, left to SGLang and on mixcomm, on four processes of the CPU."""

from __future__ import annotations

import pytest

GRIDS = [(2, 2), (1, 4)]


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_same_bits(cases, release, tp, dp):
    """Gathers: SGLang's bits. Exits: the ordered sum, which SGLang's own round in another order."""
    ranks = cases(release, tp, dp)
    names = [
        name
        for name in ranks[0]
        if name.startswith(("gather_", "exit ", "entry", "logits", "reduce_scatterv"))
    ]
    assert len(names) > 30
    for name in names:
        for rank, found in enumerate(ranks):
            one = found[name]
            assert "error" not in one, f"{name}, rank {rank}: {one['error'][-1500:]}"
            assert one["fused"], f"{name}, rank {rank} was left to SGLang"
            assert one["exact"], f"{name}, rank {rank} is not the ordered sum"
            assert one["close"] is not False, f"{name}, rank {rank} is far from SGLang's"
            if not name.startswith(("exit ", "reduce_scatterv")):
                assert one["stock"], f"{name}, rank {rank} has other bits than SGLang's"


def test_residual_and_norm_in_the_gather(cases, release):
    """SGLANG_MIXED_COMM_NORM: the bits of our own steps one after the other, near SGLang's."""
    ranks = cases(release, 2, 2)
    names = [name for name in ranks[0] if name.startswith("with_norm")]
    assert len(names) > 25
    for name in names:
        for rank, found in enumerate(ranks):
            one = found[name]
            assert "error" not in one, f"{name}, rank {rank}: {one['error'][-1500:]}"
            assert one["fused"] and one["exact"] and one["residual"], (name, rank, one)
            assert one["close"], f"{name}, rank {rank} is far from SGLang's"


LAYERS = 4  # of model.py
EXIT, GATHER = "exit with residual and norm", "gather with residual and norm"


def well(ranks: list[dict], name: str) -> list[dict]:
    """What all ranks found of one run of the model, which is exact, and near SGLang's."""
    for rank, found in enumerate(ranks):
        one = found[name]
        assert "error" not in one, f"{name}, rank {rank}: {one['error'][-1500:]}"
        assert one["exact"], f"{name}, rank {rank} is not the model by ordered sums"
        assert one["close"], f"{name}, rank {rank} is far from SGLang's"
        assert one["tally"] == ranks[0][name]["tally"], f"{name}: ranks part ways"
    return [found[name] for found in ranks]


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_the_whole_model(cases, release, tp, dp):
    """Qwen3MoeModel with each value of SGLANG_MIXED_COMM_NORM: what is fused, and the bits of its output."""
    ranks = cases(release, tp, dp)
    names = [name for name in ranks[0] if name.startswith("model ")]
    assert len(names) > 35
    for name in names:
        setting = name.split()[1]
        tally = well(ranks, name)[0]["tally"]
        exits = tally.get(EXIT, {}).get("fused", 0)
        assert exits == (0 if setting == "gather" else LAYERS - 1), (name, tally)
        gathers = tally.get(GATHER, {}).get("fused", 0)
        assert gathers == (LAYERS if setting != "exit" and tp > 1 else 0), (name, tally)
        if "MAX_LEN" in name:  # the last layer's exit, and with "gather" all of them
            assert tally["dp_reduce_scatter_tensor"] == {"fused": LAYERS - exits}, (name, tally)


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_exits_without_the_norm(cases, release, tp, dp):
    """The last layer's, a norm that no operation has, a model that is not known: the exit as it was."""
    ranks = cases(release, tp, dp)
    last = {"the last layer's, whose norm is the model's": 1} if release == "0.5.17" else {}
    other = {"another norm than SGLang's RMSNorm or GemmaRMSNorm, or of another dtype": 1}
    one = well(ranks, "of the model: other norm")[0]
    assert one["tally"][EXIT] == {"fused": LAYERS - 2, **other, **last}
    one = well(ranks, "of the model: left")[0]
    assert one["tally"][EXIT] == {"this model is not known": LAYERS - 1, **last}


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_what_one_rank_adds_between_layers(cases, release, tp, dp):
    """post_residual_addition of one DP rank, which the others cannot know: all fuse all the same."""
    assert well(cases(release, tp, dp), "of the model: added")[0]["tally"][EXIT]["fused"] == LAYERS - 1


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_self_check_of_exits_with_the_norm(cases, release, tp, dp):
    """SGLANG_MIXED_COMM_CHECK looks at them as well."""
    assert well(cases(release, tp, dp), "of the model: checked")[0]["checked"][EXIT] == 1


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_an_exit_that_waits_for_the_next_layer(cases, release, tp, dp):
    """0.5.17: a loop that changes the rows is an error; what a failed forward has left harms no other one."""
    if release != "0.5.17":
        pytest.skip("SGLang 0.5.23 leaves exits to the next layer by itself")
    for found in cases(release, tp, dp):
        one = found["of the model: rows changed"]
        assert "reads or changes rows whose sum is not made yet" in one["changed"], one
        assert one["failed"].startswith("ArithmeticError"), one
        assert one["after changed"] and one["after failed"], one
        if tp > 1:
            assert found["of the model: compiled"] == {"close": True, "waits": False, "tally": {}}
        said = found["of the model: deployments"]
        assert said["known"] is None
        assert all(said[name] for name in said if name != "known"), said
        assert "only Qwen3MoeForCausalLM is known" in said["deepstack"]


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_exit_with_sum_len_leaves_the_sum_to_us(cases, release, tp, dp):
    """SGLang sums first and cuts; we are asked before the FFN runs, so the FFN does not sum as well."""
    for found in cases(release, tp, dp):
        for name, one in found.items():
            if name.startswith("exit SUM_LEN"):
                assert (one["stock_reduces_first"], one["we_reduce_first"]) == (True, False), name
            if name.startswith("reduced_already"):
                assert one == {"sum_left": False}, name


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_one_ranks_affairs_decide_nothing(cases, release, tp, dp):
    """Strides, dtype and number of rows of one rank: all ranks fuse all the same."""
    for found in cases(release, tp, dp):
        for name in ("strided", "other_rows", "other_dtypes"):
            assert found[name].get("fused") and found[name]["exact"], (name, found[name])


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_what_is_left_to_sglang(cases, release, tp, dp):
    """Each refusal of a call: the same on all ranks, and SGLang's own function runs once."""
    ranks = [found["left"] for found in cases(release, tp, dp)]
    assert all(found == ranks[0] for found in ranks)
    reasons = {
        "fp64": "another dtype",
        "int32": "another dtype",
        "fp8": "another dtype",
        "rows": "do not sum up",
        "idle": "no rows",
        "context shards": "context parallelism",
        "large": "MAX_BYTES",
        "draft": "draft",
        "no counts": "no row count",
        **({"gatherv": "GATHERV"} if tp == 1 else {}),
    }
    assert set(ranks[0]) == set(reasons)
    for name, text in reasons.items():
        reason, calls = ranks[0][name]
        assert text in reason, name
        assert calls == 1, name


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_prefill_graphs_are_told(cases, release, tp, dp):
    """_note_dp_gather_in_prefill_graph, which SGLang's own functions call."""
    for found in cases(release, tp, dp):
        assert found["noted"] == {"entered": True, "left": True}


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_compiled(cases, release, tp, dp):
    """torch.compile(fullgraph=True) traces the hooks into the custom ops."""
    for found in cases(release, tp, dp):
        assert found["compiled"].get("exact"), found["compiled"]


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_self_check(cases, release, tp, dp):
    """SGLANG_MIXED_COMM_CHECK compares each kind once, and finds a sum that is not made."""
    for found in cases(release, tp, dp):
        one = found["checked"]
        assert one["kinds"] == {
            "dp_gather_partial": 1,
            "dp_gather_replicate": 1,
            "exit with SUM_LEN padding": 1,
        }
        if tp > 1:
            assert "SGLang's own differs" in one["wrong"]


@pytest.mark.parametrize(("tp", "dp"), GRIDS)
def test_a_rank_ends(cases, release, tp, dp):
    """The others' next call of SGLang's function raises an error that names it."""
    *others, last = cases(release, tp, dp)
    assert last["a_rank_ends"] == {"gone": True}
    for found in others:
        assert found["a_rank_ends"]["missing"] == [3]
        assert "rank 3 has ended" in found["a_rank_ends"]["text"]


def test_no_attention_dp_is_left_to_sglang(cases, release):
    """Attention 4x1: one warning, and SGLang as it is."""
    for found in cases(release, 4, 1):
        assert found == {"linked": False}
