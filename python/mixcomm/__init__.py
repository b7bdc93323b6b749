"""The communication layer of LLM inference: fused collectives for attention TP x DP.

``Communicator`` has the five operations; ``mixcomm.torch`` has them as PyTorch ops; ``mixcomm.flashinfer``
has the names of flashinfer.comm.mixed_comm.
"""

from __future__ import annotations

from typing import Any

from . import _core
from ._core import Bootstrap, Buffer, TuningTable
from .bootstrap import from_env, from_mpi, from_torch, run_threads
from .communicator import OPERATIONS, Communicator
from .epilogue import Epilogue
from .errors import (
    CudaError,
    Disagreement,
    Error,
    InvalidArgument,
    PeerGone,
    SystemError,
    Timeout,
    Unsupported,
)
from .layers import Boundary, Layer, LayerCommunicator
from .tuning import tune

__version__ = _core.version


def info() -> dict[str, Any]:
    """What this build has, and which launcher started this process ("" for none)."""
    launch = _core.launch_info()
    return {
        "version": __version__,
        "cuda": _core.built_with_cuda,
        "launcher": launch["launcher"],
        "rank": launch["rank"],
        "world_size": launch["world_size"],
    }


__all__ = [
    "OPERATIONS",
    "Bootstrap",
    "Boundary",
    "Buffer",
    "Communicator",
    "CudaError",
    "Disagreement",
    "Epilogue",
    "Error",
    "InvalidArgument",
    "Layer",
    "LayerCommunicator",
    "PeerGone",
    "SystemError",
    "Timeout",
    "TuningTable",
    "Unsupported",
    "from_env",
    "from_mpi",
    "from_torch",
    "info",
    "run_threads",
    "tune",
]
