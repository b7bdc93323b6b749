"""All spreads of 8 ranks that SGLang 0.5.23 accepts: its calls, the plug-in's, and the planner's answer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import HERE, environment

# What SGLang's pairs of calls are together.
SAME = {
    ("attn_tp.reduce_scatter_tensor", "tp.all_gather_into_tensor"): "all_reduce_all_gather",
    ("tp.reduce_scatter_tensor", "attn_tp.all_gather_into_tensor"): "reduce_scatter_all_reduce",
    ("tp.all_gather_into_tensor",): "all_gather",
    ("tp.reduce_scatter_tensor",): "reduce_scatter",
    ("tp.reduce_scatterv",): "reduce_scatter",
    ("tp.all_reduce",): "all_reduce",
}


@pytest.fixture(scope="module")
def spreads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """What the ranks of each spread found; some minutes."""
    out = tmp_path_factory.mktemp("spreads") / "found.json"
    subprocess.run(
        [sys.executable, "spreads.py", str(out)],
        env=environment("0.5.23"),
        cwd=HERE,
        timeout=1500,
        check=True,
    )
    return json.loads(out.read_text())


def test_all_are_accepted(spreads):
    """Attention 8x1 to 1x8, experts 8x1 to 1x8."""
    assert len(spreads) == 16
    for name, ranks in spreads.items():
        for found in ranks:
            assert "error" not in found, f"{name}: {found['error'][-1500:]}"


def test_each_sum_is_made_once(spreads):
    """Stock and fused, with both paddings, on all ranks; also where the teams of experts are attention's."""
    for name, ranks in spreads.items():
        for rank, found in enumerate(ranks):
            for forward, one in found["forwards"].items():
                if "left out" not in forward:
                    assert one["entered"] and one["read"], f"{name}, rank {rank}, {forward}"


def test_a_sum_left_out_is_seen(spreads):
    """An exit over attention's DP team alone has the right shapes; this test tells it from the right one."""
    seen = 0
    for name, ranks in spreads.items():
        for found in ranks:
            for forward, one in found["forwards"].items():
                if "left out" in forward and found["ops"][1] == "reduce_scatter_all_reduce":
                    own_rows = forward.startswith("MAX_LEN")
                    assert not (own_rows and one["read"]), f"{name}, {forward}"
                    seen += own_rows
    assert seen == 8 * 8


def test_the_planner_says_the_same(spreads):
    """Of SGLang's calls with MAX_LEN padding, and of what the plug-in runs."""
    for name, ranks in spreads.items():
        for found in ranks:
            plan = [step for steps in found["planner"] for step in steps]
            calls = found["forwards"]["MAX_LEN stock"]["calls"]
            assert [SAME[tuple(calls[where])] for where in ("into the FFN", "out of the FFN")] == plan, name
            if found["linked"]:
                assert found["ops"] == plan, name
                fused = found["forwards"]["MAX_LEN fused"]
                assert fused["calls"] == {"into the FFN": [], "out of the FFN": []}, name
                assert all(set(by) == {"fused"} for by in fused["tally"].values()), name
            else:
                assert plan == ["all_reduce", "all_reduce"], name
