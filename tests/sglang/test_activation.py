"""The entry point: what SGLang's own loader does with it, on and off, and with other releases."""

from __future__ import annotations

import json
import pathlib

import pytest
from conftest import RELEASES, run

LOAD = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
{before}
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.plugins.hook_registry import HookRegistry
print(json.dumps(sorted(HookRegistry._hooks)))
"""


def load(which: str, before: str = "", **variables: str):
    """(what is hooked or None, exit code, log)."""
    done = run(which, "-c", LOAD.format(before=before), **variables)
    hooked = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None
    return hooked, done.returncode, done.stderr


@pytest.mark.parametrize("value", [None, "yes"])
def test_off(release, value):
    """Nothing is hooked unless it is 1 or true."""
    hooked, _, log = load(release, **({} if value is None else {"SGLANG_USE_MIXED_COMM": value}))
    assert hooked == []
    assert "Executed general plugin: mixcomm" in log  # it was found: off is not the same as not installed


@pytest.mark.parametrize("value", ["1", "True"])
def test_on(release, value):
    """All hooks of the release are applied by SGLang."""
    hooked, _, log = load(release, SGLANG_USE_MIXED_COMM=value)
    assert len(hooked) >= 8
    for target in hooked:
        assert f"Applied 1 hook(s) to {target} " in log
    assert "Failed to apply" not in log


def test_another_release_is_left_alone(release):
    """Said, with what to do; nothing is hooked."""
    hooked, _, log = load(release, "import sglang; sglang.__version__ = '0.9.9'", SGLANG_USE_MIXED_COMM="1")
    assert hooked == []
    assert "this is SGLang 0.9.9, and mixcomm.sglang knows 0.5.17 and 0.5.23" in log


def test_another_release_is_refused(release):
    """With SGLANG_MIXED_COMM_STRICT=1 the process ends, for SGLang would only log an exception."""
    _, rc, log = load(
        release,
        "import sglang; sglang.__version__ = '0.9.9'",
        SGLANG_USE_MIXED_COMM="1",
        SGLANG_MIXED_COMM_STRICT="1",
    )
    assert rc == 1
    assert "Install one of 0.5.17 and 0.5.23" in log


START = """
import logging, os, pathlib, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
import ranks
folder = pathlib.Path(sys.argv[1])
ranks.set_up(0, 1, 1, ranks.free_port(), folder)
print("started")
"""


@pytest.fixture
def model(tmp_path: pathlib.Path) -> str:
    """A folder with the configuration of a small model."""
    import ranks

    (tmp_path / "config.json").write_text(json.dumps(ranks.MODEL))
    return str(tmp_path)


def test_refused_deployment_is_left_to_sglang(release, model):
    """One warning with the reason and the way out, and SGLang starts."""
    done = run(release, "-c", START, model, SGLANG_USE_MIXED_COMM="1")
    assert "started" in done.stdout, done.stderr[-2000:]
    assert done.stderr.count("nothing is fused, SGLang runs as it is: there is no attention DP") == 1
    assert "--enable-dp-attention" in done.stderr


def test_refused_deployment_ends_a_strict_server(release, model):
    """The hook that makes the communicator raises, which SGLang does not swallow."""
    done = run(release, "-c", START, model, SGLANG_USE_MIXED_COMM="1", SGLANG_MIXED_COMM_STRICT="1")
    assert done.returncode != 0
    assert "mixcomm.errors.Unsupported: mixcomm.sglang: there is no attention DP" in done.stderr


def test_settings_that_cannot_be_read_end_the_server(release, model):
    """Not only logged."""
    done = run(release, "-c", START, model, SGLANG_USE_MIXED_COMM="1", SGLANG_MIXED_COMM_MAX_BYTES="much")
    assert done.returncode != 0
    assert "SGLANG_MIXED_COMM_MAX_BYTES='much' is no number of bytes" in done.stderr


def test_a_hook_that_is_missing(release, model):
    """SGLang only logs a hook that it could not apply; half of them would be wrong sums."""
    hide = START.replace(
        "import ranks",
        "import ranks\nfrom sglang.srt.plugins.hook_registry import HookRegistry as H\n"
        "inner = H._apply_target.__func__\n"
        "def some(cls, target, hooks):\n"
        "    if 'dp_reduce_scatter_tensor' in target: raise ValueError('not today')\n"
        "    return inner(cls, target, hooks)\n"
        "H._apply_target = classmethod(some)\n"
        "import mixcomm.sglang.deployment as d\n"
        "d.refusal = lambda facts: None",
    )
    done = run(release, "-c", hide, model, SGLANG_USE_MIXED_COMM="1")
    assert done.returncode != 0
    assert (
        "has not applied the hook on sglang.srt.layers.dp_attention.dp_reduce_scatter_tensor" in done.stderr
    )


def test_releases_are_the_known_ones():
    """What is tested is what is claimed."""
    from mixcomm.sglang import versions

    assert versions.known() == sorted(RELEASES)
