"""How ranks find each other: launchers' variables, PyTorch process groups, MPI, threads."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

from . import _core
from .errors import SystemError, Unsupported

DEFAULT_TIMEOUT = 30.0

_from_env: dict[str, Any] = {}


def from_env(timeout: float = DEFAULT_TIMEOUT) -> _core.Bootstrap:
    """The bootstrap of the launcher that started this process.

    mixcomm run, torchrun, mpirun, srun and flux run are known by their variables (MIXCOMM_RANK, RANK,
    OMPI_COMM_WORLD_RANK, PMI_RANK, SLURM_PROCID ...); without any, there is one rank. Of launchers inside of
    launchers the innermost counts; where that cannot be told and they contradict each other, name it in
    MIXCOMM_LAUNCHER. Ranks meet once: later calls return the same one. Collective at the first call. Raises
    InvalidArgument, naming the variables, Timeout, SystemError, Disagreement.
    """
    info = _core.launch_info()
    key = repr(sorted(info.items())) + str(os.getpid())
    if key not in _from_env:
        _from_env.clear()
        _from_env[key] = _core.bootstrap_processes(info, timeout)
    return _from_env[key]


def _meeting_place() -> dict[str, Any]:
    """Where this process would listen if it were rank 0."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    except OSError:  # there is no such network; ranks then meet at a Unix socket, in whose name it is
        port = 10_000 + secrets.randbelow(50_000)
    return {"node": _node(), "port": port, "secret": secrets.token_hex(16)}


def _node() -> str:
    """What the processes of one running system share: shared memory goes no further."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return socket.gethostname()


def _meet(rank: int, places: list[dict[str, Any]], timeout: float) -> _core.Bootstrap:
    """The bootstrap of ranks that have told each other their meeting places."""
    strangers = [r for r, place in enumerate(places) if place["node"] != places[0]["node"]]
    if strangers:
        raise Unsupported(
            f"ranks {strangers} are on other hosts than rank 0; a communicator's ranks share one host: "
            "pass a group of the ranks of one host, or use from_mpi(), which carries what goes between hosts"
        )
    info = {
        "rank": rank,
        "world_size": len(places),
        "host": "127.0.0.1",
        "port": places[0]["port"],
        "secret": places[0]["secret"],
    }
    return _core.bootstrap_processes(info, timeout)


def from_torch(process_group: Any = None, timeout: float = DEFAULT_TIMEOUT) -> _core.Bootstrap:
    """The bootstrap of the ranks of a torch.distributed process group (None: all ranks), numbered as in it.

    The group is used once, to agree on where to meet, whatever its backend. Collective over the group. Raises
    Unsupported for a group that spans hosts; Timeout, SystemError.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        raise SystemError("torch.distributed is not initialized; call init_process_group() first")
    places: list[Any] = [None] * dist.get_world_size(process_group)
    dist.all_gather_object(places, _meeting_place(), group=process_group)
    return _meet(dist.get_rank(process_group), places, timeout)


def from_mpi(comm: Any = None, timeout: float = DEFAULT_TIMEOUT) -> _core.Bootstrap:
    """The bootstrap of the ranks of an mpi4py communicator (None: COMM_WORLD), numbered as in it.

    On one host the communicator is used once, for one allgather. Where ranks are on several hosts it is
    copied, and MPI carries what goes between them: attention TP inside a host, DP across. MPI is then called
    by the threads that call mixcomm, which mpi4py's default, THREAD_MULTIPLE, allows. Collective over the
    communicator. Raises Timeout, naming ranks, SystemError; Unsupported where mixcomm was built for no MPI of
    this kind.
    """
    if comm is None:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    places = comm.allgather({**_meeting_place(), "host": socket.gethostname()})
    if all((place["node"], place["host"]) == (places[0]["node"], places[0]["host"]) for place in places):
        return _meet(comm.Get_rank(), places, timeout)
    from mpi4py import MPI

    return _core.bootstrap_mpi(MPI._addressof(comm), MPI._sizeof(comm), timeout)


def run_threads(
    world_size: int, fn: Callable[[_core.Bootstrap], Any], timeout: float = DEFAULT_TIMEOUT
) -> list[Any]:
    """Runs fn(bootstrap) on ``world_size`` threads, one a rank; returns what they returned, by rank.

    For tests, examples and notebooks: the GIL is released while ranks wait, but Python itself runs one rank
    at a time. Communicators made from these bootstraps end with the function. Raises the first exception that
    is no Timeout, which is the cause; else the first Timeout.
    """
    results: list[Any] = [None] * world_size
    problem: list[BaseException] = []

    def run(bootstrap: _core.Bootstrap) -> None:
        results[bootstrap.rank] = fn(bootstrap)

    def main() -> None:
        try:
            _core.run_threads(world_size, run, timeout)
        except BaseException as error:
            problem.append(error)

    # A thread of its own, so that Ctrl-C reaches the caller while it waits.
    thread = threading.Thread(target=main, name="mixcomm.run_threads", daemon=True)
    thread.start()
    thread.join()
    if problem:
        raise problem[0]
    return results
