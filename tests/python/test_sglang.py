"""mixcomm.sglang without SGLang: settings, refusals of deployments, counters, the watch."""

import dataclasses
import os
import subprocess
import sys
import time

import pytest

from mixcomm.errors import InvalidArgument
from mixcomm.sglang import deployment, settings, versions

SERVED = deployment.Deployment(attn_tp=2, attn_dp=2, tp=4)


def test_a_grid_on_one_host_is_served():
    """Attention TP x DP, TP 1 as well."""
    assert deployment.refusal(SERVED) is None
    assert deployment.refusal(dataclasses.replace(SERVED, attn_tp=1, attn_dp=4)) is None
    assert deployment.refusal(dataclasses.replace(SERVED, device="cpu", built_with_cuda=False)) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"attn_tp": 4, "attn_dp": 1}, "no attention DP (attention TP 4 x DP 1)"),
        ({"attn_cp": 2, "tp": 8}, "context parallelism (--attn-cp-size 2)"),
        ({"moe_dp": 2}, "--moe-dp-size 2"),
        ({"tp": 8}, "the TP group has 8 ranks"),
        ({"elastic_ep": True}, "elastic EP"),
        ({"two_batch_overlap": True}, "--enable-two-batch-overlap"),
        ({"pd_multiplexing": True}, "--enable-pdmux"),
        ({"hosts": 2}, "2 hosts (--nnodes)"),
        ({"device": "xpu"}, "the device is xpu"),
        ({"rocm": True}, "the device is ROCm"),
        ({"built_with_cuda": False}, "built without CUDA"),
    ],
)
def test_refused(change, text):
    """Each deployment that is not served, by what is wrong with it."""
    assert text in deployment.refusal(dataclasses.replace(SERVED, **change))


@pytest.mark.parametrize(
    ("value", "on"),
    [("1", True), ("true", True), ("TRUE", True), ("0", False), ("yes", False), ("", False), ("2", False)],
)
def test_switch(value, on):
    """1 or true, and nothing else."""
    assert settings.switched_on({settings.SWITCH: value}) is on


def test_defaults():
    """Nothing set: measured limits, not strict."""
    assert not settings.switched_on({})
    assert settings.read({}) == settings.Settings(False, False, settings.DEFAULT_MAX_BYTES, 300.0)
    asked = {settings.STRICT: "1", settings.CHECK: "true", settings.MAX_BYTES: "1e6", settings.TIMEOUT: "20"}
    assert settings.read(asked) == settings.Settings(True, True, 1_000_000, 20.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (settings.STRICT, "maybe"),
        (settings.CHECK, "on"),
        (settings.MAX_BYTES, "-1"),
        (settings.MAX_BYTES, "8M"),
        (settings.TIMEOUT, "0"),
        (settings.TIMEOUT, "inf"),
        (settings.TIMEOUT, "nan"),
    ],
)
def test_settings_that_cannot_be_read(name, value):
    """The value, the rule and the way out."""
    with pytest.raises(InvalidArgument, match=name) as caught:
        settings.read({name: value})
    assert repr(value) in str(caught.value)


def test_an_unreadable_strict_is_strict():
    """Where the process ends before settings are read."""
    assert settings.strict({settings.STRICT: "maybe"})
    assert not settings.strict({})
    assert not settings.strict({settings.STRICT: "false"})


def test_another_release_is_told_what_to_do():
    """Which releases are known."""
    text = versions.unknown_text("0.6.0")
    assert "this is SGLang 0.6.0" in text
    assert "Install one of 0.5.17 and 0.5.23" in text


def test_off_imports_nothing():
    """An installed but switched-off plug-in costs SGLang no import of PyTorch, nor of SGLang."""
    code = (
        "import sys, mixcomm.sglang as s; s.activate(); "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'sglang')])"
    )
    env = {k: v for k, v in os.environ.items() if k != settings.SWITCH}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "[]"


def test_counters(caplog):
    """By call and reason; each reason is said once."""
    pytest.importorskip("torch")
    from mixcomm.sglang import counters, tally

    tally.reset()
    with caplog.at_level("INFO", logger="mixcomm.sglang"):
        tally.count("dp_gather_partial")
        tally.count("dp_gather_partial", tally.TOO_LARGE)
        tally.count("dp_gather_partial", tally.TOO_LARGE)
    assert counters() == {"dp_gather_partial": {"fused": 1, tally.TOO_LARGE: 2}}
    assert tally.summary() == f"dp_gather_partial: 1 fused, 2 left ({tally.TOO_LARGE})"
    assert len(caplog.records) == 1
    tally.reset()
    assert tally.summary() == "no calls yet"


class Fake:
    """A communicator of which the watch only wants to know whether it has failed."""

    def __init__(self):
        self.failure = None
        self.looked = 0

    def check(self):
        """Raises what the test has put there."""
        self.looked += 1
        if self.failure is not None:
            raise self.failure


def watched(processes):
    """(the communicator, the watch, when it ended the server)."""
    pytest.importorskip("torch")
    from mixcomm.sglang import watch

    ended: list[float] = []
    fake = Fake()
    one = watch.Watch(fake, processes, end=lambda: ended.append(time.monotonic()))
    one._thread.start()
    return fake, one, ended


def wait_for(condition, seconds=20.0):
    """Whether it becomes true."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this Python has no os.pidfd_open")
def test_watch_sees_a_process_end(caplog):
    """The server is ended, and the log says which rank it was."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    fake, one, ended = watched({3: os.pidfd_open(child.pid)})
    assert wait_for(lambda: fake.looked > 1)
    assert not ended
    child.kill()
    assert wait_for(lambda: ended)
    assert "rank(s) [3] of the TP group have ended" in caplog.text
    child.wait()
    one.stop()


def test_watch_sees_a_failure(caplog):
    """What the kernels have found ends the server, with the error's own words."""
    from mixcomm.errors import Timeout

    fake, one, ended = watched({})
    fake.failure = Timeout("rank 2 did not come")
    assert wait_for(lambda: ended)
    assert "rank 2 did not come" in caplog.text
    one.stop()


def test_watch_leaves_a_busy_communicator_alone():
    """The scheduler's own calls go first: a communicator is used by one thread at a time."""
    fake, one, _ = watched({})
    assert wait_for(lambda: fake.looked > 0)
    with one.lock:
        before = fake.looked
        time.sleep(0.8)
        assert fake.looked == before
    assert wait_for(lambda: fake.looked > before)
    one.stop()


def test_norms():
    """SGLANG_MIXED_COMM_NORM takes both, or one of the two, by name; off unless it is set."""

    def read(**variables: str) -> tuple[bool, bool]:
        norm = settings.read(variables).norm
        return norm.gather, norm.exit

    assert read() == read(SGLANG_MIXED_COMM_NORM="") == read(SGLANG_MIXED_COMM_NORM=settings.DEFAULT_NORM)
    assert read(SGLANG_MIXED_COMM_NORM="0") == read(SGLANG_MIXED_COMM_NORM="False") == (False, False)
    assert read(SGLANG_MIXED_COMM_NORM="1") == read(SGLANG_MIXED_COMM_NORM="true") == (True, True)
    assert read(SGLANG_MIXED_COMM_NORM="gather") == (True, False)
    assert read(SGLANG_MIXED_COMM_NORM="Exit") == (False, True)
    with pytest.raises(InvalidArgument, match="'both' is none of 1, true, 0, false, gather, exit"):
        read(SGLANG_MIXED_COMM_NORM="both")
