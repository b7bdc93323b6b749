"""The examples run, as their docstrings say."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"
HAS_TORCH = importlib.util.find_spec("torch") is not None


def run(command, **environment):
    """Its output."""
    # What the tests with ranks as streams set is not for processes that share a GPU.
    base = {key: value for key, value in os.environ.items() if key != "CUDA_DEVICE_MAX_CONNECTIONS"}
    done = subprocess.run(
        command, env=base | environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_numpy_as_threads():
    """Started by itself."""
    assert run([sys.executable, EXAMPLES / "fused_numpy.py"]).count("correct") == 4


def test_numpy_as_processes():
    """Started by a launcher: here the variables of mixcomm run."""
    port = str(26000 + os.getpid() % 2000)
    base = {"MIXCOMM_WORLD_SIZE": "4", "MIXCOMM_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, EXAMPLES / "fused_numpy.py"],
            env={**os.environ, **base, "MIXCOMM_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(4)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert all("correct" in output for output in outputs), outputs


def torchrun(*arguments, ranks=4):
    """Ranks of PyTorch's launcher."""
    return run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={ranks}",
            *arguments,
        ]
    )


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
def test_torch_block():
    """Fused against composed, over gloo."""
    assert torchrun(EXAMPLES / "moe_block_torch.py").count("same numbers") == 4


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
def test_torchrun_numpy():
    """torchrun's variables are known to from_env()."""
    assert torchrun(EXAMPLES / "fused_numpy.py").count("correct") == 4


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
def test_torch_block_on_a_gpu():
    """Four processes that share one GPU under MPS."""
    from cuda_streams import why_no_processes

    if why := why_no_processes():
        pytest.skip(why)
    assert torchrun(EXAMPLES / "moe_block_torch.py", "--backend", "cuda").count("same numbers") == 4
