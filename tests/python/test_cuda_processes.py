"""Ranks as four processes that share a GPU under MPS; cuda_ranks.py is what each of them runs."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from cuda_ranks import CASES, WORLD  # noqa: E402
from cuda_streams import why_no_processes  # noqa: E402
from ports import free_port  # noqa: E402

pytestmark = pytest.mark.skipif(bool(why_no_processes()), reason=why_no_processes())


@pytest.fixture(scope="module")
def results():
    """Of each rank: what it says of each case ("" if all is well), its stderr, its status.

    All cases in one run, since starting takes longest.
    """
    base = {key: value for key, value in os.environ.items() if key != "CUDA_DEVICE_MAX_CONNECTIONS"}
    base |= {"MIXCOMM_WORLD_SIZE": str(WORLD), "MIXCOMM_PORT": str(free_port())}
    base |= {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, Path(__file__).with_name("cuda_ranks.py"), f"tcp://127.0.0.1:{free_port()}"]
    ranks = [
        subprocess.Popen(
            command,
            env=base | {"MIXCOMM_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    watchdog = threading.Timer(400, lambda: [rank.kill() for rank in ranks])
    watchdog.start()
    outputs = [rank.communicate() for rank in ranks]
    watchdog.cancel()
    said = []
    for lines, _ in outputs:
        cases = [json.loads(line) for line in lines.splitlines() if line.startswith('{"case"')]
        said.append({each["case"]: each["error"] for each in cases})
    return [
        (each, stderr, rank.returncode) for each, (_, stderr), rank in zip(said, outputs, ranks, strict=True)
    ]


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_case(results, case):
    """As cuda_ranks.py describes it."""
    for rank, (said, stderr, _) in enumerate(results):
        assert case in said, f"rank {rank} did not come to it:\n{stderr[-3000:]}"
        assert not said[case], f"rank {rank}:\n{said[case]}"


def test_they_end_well(results):
    """Nothing crashes when a process that used CUDA ends."""
    for rank, (_, stderr, status) in enumerate(results):
        assert status == 0, f"rank {rank} ended with {status}:\n{stderr[-3000:]}"
