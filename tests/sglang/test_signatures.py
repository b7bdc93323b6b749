"""The hooks against the sources of both releases: the functions are there, with those parameters."""

from __future__ import annotations

import ast
import importlib.util
import pathlib

import pytest
from conftest import RELEASES

from mixcomm.sglang import versions


def sources(which: str) -> pathlib.Path:
    """The folder that holds the package sglang of this release."""
    for folder in filter(None, RELEASES[which].split(":")):
        if (pathlib.Path(folder) / "sglang").exists():
            return pathlib.Path(folder)
    spec = importlib.util.find_spec("sglang")
    assert spec is not None and spec.origin is not None
    return pathlib.Path(spec.origin).parent.parent


def find(root: pathlib.Path, target: str) -> ast.FunctionDef:
    """The definition of a dotted name: module, classes, function."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        path = root.joinpath(*parts[:length]).with_suffix(".py")
        if path.exists():
            body = ast.parse(path.read_text()).body
            for name in parts[length:]:
                (node,) = (
                    n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name
                )
                body = node.body
            assert isinstance(node, ast.FunctionDef)
            return node
    raise AssertionError(f"no module of {target} under {root}")


@pytest.mark.parametrize("which", sorted(RELEASES))
def test_hooks(which):
    """Names and order of the parameters."""
    if which == "0.5.17" and not RELEASES[which]:
        pytest.skip("MIXCOMM_SGLANG_0_5_17 does not say where SGLang 0.5.17 is")
    for hook in versions.hooks(which):
        arguments = find(sources(which), hook.target).args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        names += [] if arguments.kwarg is None else [f"**{arguments.kwarg.arg}"]
        assert tuple(names) == hook.parameters, hook.target
        assert arguments.vararg is None, hook.target


@pytest.mark.parametrize("which", sorted(RELEASES))
def test_options_that_refuse(which):
    """The server's options by which deployments are refused have these names."""
    if which == "0.5.17" and not RELEASES[which]:
        pytest.skip("MIXCOMM_SGLANG_0_5_17 does not say where SGLang 0.5.17 is")
    srt = sources(which) / "sglang" / "srt"
    text = (srt / "server_args.py").read_text()
    text += "".join(path.read_text() for path in (srt / "arg_groups").glob("fields/*.py"))
    options = (
        "nnodes",
        "device",
        "elastic_ep_backend",
        "max_ep_size",
        "enable_two_batch_overlap",
        "enable_pdmux",
    )
    for name in (*options, "moe_dp_size", "attn_cp_size"):
        assert f"\n    {name}: " in text, name
