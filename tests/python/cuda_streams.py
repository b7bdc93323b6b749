"""Who can run the tests on a GPU, and ranks as streams of one."""

import ctypes
import os
import threading
from contextlib import suppress

# Streams of one process share its hardware queues, 8 unless told otherwise: with fewer queues than streams, a
# kernel may have to wait for one that waits for it. Read when CUDA starts.
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

import torch

import mixcomm

PATIENCE = 20.0  # seconds, of waits that are not meant to end in a Timeout


def why_no_cuda():
    """Why nothing can run on a GPU here, or ""."""
    if not mixcomm.info()["cuda"]:
        return "mixcomm was built without CUDA"
    return "" if torch.cuda.is_available() else "there is no CUDA device"


def why_no_processes():
    """Why processes cannot share a GPU here, or ""."""
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    no_mps = "no MPS daemon runs: processes would share the GPU in slices of milliseconds"
    return why_no_cuda() or ("" if os.path.exists(os.path.join(pipes, "control")) else no_mps)


# The same ones each time: a stream more or less would change which of them share a queue.
_streams = []


class Rank:
    """One rank as a stream.

    While a kernel may wait for another rank's, nothing may wait for the device: so copies, new memory, and
    the first use of any other kernel belong between two meetings, where none runs.
    """

    def __init__(self, bootstrap, point):
        self.bootstrap, self.point = bootstrap, point
        self.rank, self.world = bootstrap.rank, bootstrap.world_size
        self.stream = _streams[self.rank]

    def communicator(self, tp, dp=1, **options):
        """Collective."""
        options = {"backend": "cuda", "timeout": PATIENCE, **options}
        return mixcomm.Communicator(self.bootstrap, tp=tp, dp=dp, **options)

    def meet(self):
        """Waits for what this rank has put on its stream, then for all ranks to have done so."""
        self.stream.synchronize()
        try:
            self.point.wait(3 * PATIENCE)
        except threading.BrokenBarrierError:  # a Timeout, since run_threads() looks for the cause
            raise mixcomm.Timeout("another rank failed, or did not come to the meeting") from None

    def capture(self, fn):
        """A graph of what fn() enqueues, and what it returns. Collective: captures wait for the device."""
        graph = torch.cuda.CUDAGraph()
        for turn in range(self.world):
            self.meet()
            if turn == self.rank:
                with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                    result = fn()
                upload(graph, self.stream)
        self.meet()
        return graph, result


def upload(graph, stream):
    """Makes ready now what the first replay would, beside kernels that wait; where torch lends the graph."""
    if hasattr(graph, "raw_cuda_graph_exec"):
        arguments = ctypes.c_void_p(graph.raw_cuda_graph_exec()), ctypes.c_void_p(stream.cuda_stream)
        assert ctypes.CDLL("libcuda.so.1").cuGraphUpload(*arguments) == 0


def on_streams(world, fn):
    """Runs fn(rank) on ranks as threads, each with its own stream as the current one; gives what they return.

    fn ends with a meeting, before what it made is destroyed. If a rank fails, the others learn of it when
    they meet.
    """
    point, end = threading.Barrier(world), threading.Barrier(world)
    while len(_streams) < world:
        _streams.append(torch.cuda.Stream())

    def run(bootstrap):
        rank = Rank(bootstrap, point)
        with torch.cuda.stream(rank.stream), torch.inference_mode():
            # Room for new tensors, so that none is asked of CUDA while kernels wait.
            room = [torch.empty(1 << 19, dtype=torch.uint8, device="cuda") for _ in range(16)]
            del room
            try:
                return fn(rank)
            except BaseException:
                point.abort()
                raise
            finally:
                rank.stream.synchronize()
                with suppress(threading.BrokenBarrierError):
                    end.wait(3 * PATIENCE)

    return mixcomm.run_threads(world, run, timeout=3 * PATIENCE)
