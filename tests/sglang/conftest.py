"""Where the releases of SGLang are, and runs of the helpers that need their own processes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
# Folders that hold a release each, before what is installed; scripts/check-sglang makes the older one.
RELEASES = {
    "0.5.23": os.environ.get("MIXCOMM_SGLANG_0_5_23", ""),
    "0.5.17": os.environ.get("MIXCOMM_SGLANG_0_5_17", ""),
}


def environment(release: str, **more: str) -> dict[str, str]:
    """The environment of a process that is to import this release."""
    given = {k: v for k, v in os.environ.items() if not k.startswith(("SGLANG_", "PYTHONPATH"))}
    path = [RELEASES[release], str(HERE)]
    return {
        **given,
        "PYTHONPATH": ":".join(filter(None, path)),
        "SGLANG_NCCL_SO_PATH": "/nonexistent/libnccl.so",
        **more,
    }


def run(release: str, *command: str, seconds: float = 300, **more: str) -> subprocess.CompletedProcess:
    """A Python process with that release."""
    return subprocess.run(
        [sys.executable, *command],
        env=environment(release, **more),
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.fixture(params=sorted(RELEASES), scope="session")
def release(request: pytest.FixtureRequest) -> str:
    """Each release that is there."""
    if request.param == "0.5.17" and not RELEASES["0.5.17"]:
        pytest.skip("MIXCOMM_SGLANG_0_5_17 does not say where SGLang 0.5.17 is")
    return request.param


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory):
    """cases(release, tp, dp): what each rank found, by case; run once."""
    known: dict[tuple[str, int, int], list[dict]] = {}

    def found(which: str, tp: int, dp: int) -> list[dict]:
        key = (which, tp, dp)
        if key not in known:
            out = tmp_path_factory.mktemp(f"ranks{tp}x{dp}") / "found.json"
            variables = [
                "SGLANG_USE_MIXED_COMM=1",
                "SGLANG_MIXED_COMM_TIMEOUT=60",
                "SGLANG_MIXED_COMM_MAX_BYTES=300000",
            ]
            done = run(which, "ranks.py", str(tp), str(dp), str(out), *variables, seconds=900)
            files = [pathlib.Path(f"{out}.{rank}") for rank in range(tp * dp)]
            assert all(file.exists() for file in files), done.stdout[-2000:] + done.stderr[-4000:]
            known[key] = [json.loads(file.read_text()) for file in files]
        return known[key]

    return found
