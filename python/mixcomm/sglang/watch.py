"""Looks after the ranks of a communicator on GPUs while the scheduler's own thread waits for the device.

A rank that has ended leaves the others' kernels waiting, of this library until the deadline, of NCCL for
good; the thread that launched them cannot look meanwhile. So a thread of its own asks the system whether
processes have ended,
and the communicator whether its kernels have given up, and ends the server as SGLang's schedulers do: by
SIGQUIT to their parent.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from ..communicator import Communicator
from ..errors import Error

logger = logging.getLogger("mixcomm.sglang")

_EVERY_S = 0.25
# A server that is being stopped ends its ranks one after the other; what still runs after this was not.
_GRACE_S = 3.0


class Watch:
    """The thread, and the lock under which the communicator is used."""

    def __init__(
        self, communicator: Communicator, processes: dict[int, int], end: Callable[[], None] | None = None
    ) -> None:
        """processes: pidfds of the other ranks, by rank. end: what ends the server."""
        self.lock = threading.Lock()
        self._communicator = communicator
        self._processes = processes
        self._end = end or _quit_parent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="mixcomm.sglang watch", daemon=True)

    @classmethod
    def start(cls, communicator: Communicator, group: Any) -> Watch:
        """Collective over the group: ranks tell each other their processes, and each begins to look."""
        pids: list[Any] = [0] * dist.get_world_size(group)
        dist.all_gather_object(pids, os.getpid(), group=group)
        processes = {}
        for rank, pid in enumerate(pids):
            if rank != communicator.rank:
                try:
                    processes[rank] = os.pidfd_open(pid)
                except OSError:  # no pidfds here, or ranks in other namespaces; the deadline remains
                    continue
        watch = cls(communicator, processes)
        watch._thread.start()
        return watch

    def check(self) -> None:
        """Raises what the kernels have found."""
        with self.lock:
            self._communicator.check()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def _failure(self) -> Error | None:
        if not self.lock.acquire(blocking=False):
            return None
        try:
            self._communicator.check()
        except Error as error:
            return error
        finally:
            self.lock.release()
        return None

    def _ended(self) -> list[int]:
        poll = select.poll()
        for fd in self._processes.values():
            poll.register(fd, select.POLLIN)
        gone = {fd for fd, _ in poll.poll(0)}
        return [rank for rank, fd in self._processes.items() if fd in gone]

    def _look(self) -> None:
        while not self._stop.wait(_EVERY_S):
            ended = self._ended()
            if ended:
                logger.error(
                    "mixcomm: rank(s) %s of the TP group have ended; what waits for them cannot "
                    "come. Look at their output "
                    "first. The server is ended in %g s",
                    ended,
                    _GRACE_S,
                )
                time.sleep(_GRACE_S)
                return self._end()
            failure = self._failure()
            if failure is not None:
                logger.error("mixcomm: %s. The server is ended", failure)
                time.sleep(_GRACE_S)  # the scheduler's own thread may still raise it where it belongs
                return self._end()


def _quit_parent() -> None:
    """As SGLang's schedulers end the server when they fail."""
    os.kill(os.getppid(), signal.SIGQUIT)
