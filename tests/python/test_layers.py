"""A model's boundaries from Python: a toy decoder on four ranks against what one rank would compute."""

import numpy as np
import pytest

import mixcomm

HIDDEN, COUNTS = 8, [3, 1]
MODEL = {
    "attn_tp": 2,
    "attn_dp": 2,
    "moe_tp": 2,
    "moe_ep": 2,
    "hidden": HIDDEN,
    "dtype": "float32",
    "max_rows": 64,
}


def test_two_layers():
    """Attention multiplies by 4 and the experts by 8, shared out among ranks; the residual is added once."""

    def rank(bootstrap):
        with mixcomm.LayerCommunicator(bootstrap, layers=["moe", "moe"], **MODEL) as layers:
            rows = layers.rows(COUNTS)
            assert rows.total == 4
            first, count = layers.range("by_dp_rank", rows)
            start = (first + 1 + np.arange(count, dtype=np.float32))[:, None] * np.ones(HIDDEN, np.float32)
            residual = start.copy()
            for layer in range(2):
                boundary = layers.before_mlp(layer)
                assert "all_reduce_all_gather" in boundary.steps
                mixed = residual * 2
                if "residual" in boundary.adds_before:
                    mixed += residual
                everyone = layers.cross(boundary, mixed, rows)
                boundary = layers.after_mlp(layer)
                assert boundary.takes == "replicated"
                mine = layers.cross(boundary, everyone * 2, rows)
                residual = mine + everyone[first : first + count]
            assert (residual == start * (5 * 9) ** 2).all()

    mixcomm.run_threads(4, rank)


def test_pause():
    """Between two steps; crossing is refused meanwhile."""

    def rank(bootstrap):
        with mixcomm.LayerCommunicator(bootstrap, layers=["moe"], **MODEL) as layers:
            rows = layers.rows(COUNTS)
            count = layers.range("by_dp_rank", rows)[1]
            for _ in range(3):
                x = np.ones((count, HIDDEN), np.float32)
                assert (layers.cross(layers.before_mlp(0), x, rows) == 2).all()
                layers.pause()
                layers.pause()
                assert layers.paused
                with pytest.raises(mixcomm.InvalidArgument, match="paused"):
                    layers.cross(layers.before_mlp(0), x, rows)
                layers.resume()
                assert not layers.paused

    mixcomm.run_threads(4, rank)


def test_refusals():
    """What is no model, and what is no boundary."""
    with pytest.raises(mixcomm.InvalidArgument, match="sparse"):
        mixcomm.run_threads(4, lambda b: mixcomm.LayerCommunicator(b, layers=["sparse"], **MODEL))
    with pytest.raises(mixcomm.InvalidArgument, match="colour"):
        mixcomm.run_threads(4, lambda b: mixcomm.LayerCommunicator(b, layers=["moe"], colour=1, **MODEL))

    def rank(bootstrap):
        layers = mixcomm.LayerCommunicator(bootstrap, layers=["moe"], **MODEL)
        with pytest.raises(mixcomm.InvalidArgument, match="no layer 1"):
            layers.before_mlp(1)
        with pytest.raises(mixcomm.InvalidArgument, match="rows lie"):
            layers.range("anyhow", layers.rows(COUNTS))
        layers.close()
        with pytest.raises(mixcomm.InvalidArgument, match="closed"):
            layers.logits()

    mixcomm.run_threads(4, rank)
