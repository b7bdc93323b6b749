"""What Python brings: exceptions, Ctrl-C, forks, pickles, threads, launchers, and leaks."""

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import mixcomm

ONES = np.ones((2, 4), np.float32)


def script(text, ranks=None, **environment):
    """Runs a program; with ``ranks`` as that many ranks, which find each other. Gives the outputs."""
    command = [sys.executable, "-c", textwrap.dedent(text)]
    port = str(24000 + os.getpid() % 2000)
    processes = []
    for rank in range(ranks or 1):
        env = {**os.environ, **environment}
        if ranks:
            env |= {"MIXCOMM_RANK": str(rank), "MIXCOMM_WORLD_SIZE": str(ranks), "MIXCOMM_PORT": port}
        processes.append(
            subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def test_exceptions_are_pythons_as_well():
    """Whoever catches ValueError and so on catches ours."""
    assert issubclass(mixcomm.InvalidArgument, ValueError)
    assert issubclass(mixcomm.Unsupported, NotImplementedError)
    assert issubclass(mixcomm.Timeout, TimeoutError)
    assert issubclass(mixcomm.PeerGone, mixcomm.Timeout)
    assert issubclass(mixcomm.SystemError, OSError)
    for name in ("InvalidArgument", "Unsupported", "Timeout", "Disagreement", "CudaError", "SystemError"):
        assert issubclass(getattr(mixcomm, name), mixcomm.Error)
    assert issubclass(mixcomm.Error, RuntimeError)


def test_wrong_options_are_refused():
    """Each with what may be instead."""
    for options, message in [
        ({"tp": 2}, "needs 2 ranks|needs 0 ranks"),
        ({"algorithm": "magic"}, "one_shot"),
        ({"backend": "tpu"}, "cuda"),
        ({"timeout": -1}, "timeout"),
        ({"workspace_bytes": 7}, "workspace_bytes"),
        ({"threads": 257}, "threads is 257"),
    ]:
        with pytest.raises(mixcomm.InvalidArgument, match=message):
            mixcomm.Communicator(mixcomm.from_env(), **options)


def test_cuda_without_cuda():
    """It is Unsupported, or an error of CUDA's where there is no device."""
    if mixcomm.info()["cuda"] and os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has a GPU")
    with pytest.raises((mixcomm.Unsupported, mixcomm.CudaError)):
        mixcomm.Communicator(mixcomm.from_env(), backend="cuda")


def test_timeout_names_the_missing():
    """And the communicator stays failed."""

    def rank(bootstrap):
        communicator = mixcomm.Communicator(bootstrap, tp=3, timeout=0.3)
        if bootstrap.rank == 1:
            return
        for _ in range(2):
            with pytest.raises(mixcomm.Timeout, match="rank 1") as caught:
                communicator.all_reduce(ONES)
            assert caught.value.missing == (1,)

    mixcomm.run_threads(3, rank)


def test_disagreement():
    """Ranks that call different things are told, not hung."""

    def rank(bootstrap):
        communicator = mixcomm.Communicator(bootstrap, tp=2)
        with pytest.raises(mixcomm.Disagreement, match="hidden"):
            communicator.all_reduce(np.ones((2, 4 + bootstrap.rank), np.float32))

    mixcomm.run_threads(2, rank)


def test_run_threads_raises_the_cause():
    """Not what the other ranks say of it."""

    def rank(bootstrap):
        if bootstrap.rank == 1:
            raise KeyError("the cause")
        mixcomm.Communicator(bootstrap)

    with pytest.raises(KeyError, match="the cause"):
        mixcomm.run_threads(3, rank)
    assert mixcomm.run_threads(2, lambda bootstrap: bootstrap.rank * 10) == [0, 10]


def test_closed():
    """Closing twice is fine; calls are refused; so are communicators whose threads have ended."""
    communicator = mixcomm.Communicator(mixcomm.from_env())
    communicator.close()
    communicator.close()
    assert communicator.closed
    assert "closed" in repr(communicator)
    with pytest.raises(mixcomm.InvalidArgument, match="closed"):
        communicator.all_reduce(ONES)
    kept = mixcomm.run_threads(2, lambda bootstrap: (bootstrap, mixcomm.Communicator(bootstrap)))
    with pytest.raises(mixcomm.InvalidArgument, match="closed"):
        kept[0][1].all_reduce(ONES)
    with pytest.raises(mixcomm.InvalidArgument, match="closed"):
        mixcomm.Communicator(kept[0][0])


def test_pickling_is_refused():
    """With what to do instead."""
    with mixcomm.Communicator(mixcomm.from_env()) as communicator:
        for action in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="Make one in each process"):
                action(communicator)


def _in_child(communicator, results):
    try:
        communicator.all_reduce(ONES)
    except mixcomm.Unsupported as error:
        results.put(str(error))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_refused():
    """It is told to use spawn, and the parent goes on."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with mixcomm.Communicator(mixcomm.from_env()) as communicator:
        child = context.Process(target=_in_child, args=(communicator, results))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert "spawn" in results.get()
        assert (communicator.all_reduce(ONES) == 1).all()


def test_one_thread_at_a_time():
    """A second thread is refused while the first one waits, and others run: the GIL is released."""

    def rank(bootstrap):
        communicator = mixcomm.Communicator(bootstrap, tp=2, timeout=20)
        if bootstrap.rank == 0:
            waiter = threading.Thread(target=communicator.all_reduce, args=(ONES,))
            waiter.start()
            with pytest.raises(mixcomm.InvalidArgument, match="another thread"):
                while waiter.is_alive():
                    communicator.check()
                    time.sleep(0.01)
            ready.set()
            waiter.join()
        else:
            assert ready.wait(20)
            communicator.all_reduce(ONES)

    ready = threading.Event()
    mixcomm.run_threads(2, rank)


def test_control_c_ends_a_wait():
    """KeyboardInterrupt on the rank that was interrupted; the others are told by whom they were left."""
    started = time.monotonic()
    outputs = script(
        """
        import os, signal, threading, time, numpy, mixcomm
        communicator = mixcomm.Communicator.from_env(tp=3, timeout=60)
        x = numpy.ones((1, 4), numpy.float32)
        communicator.all_reduce(x)
        if communicator.rank == 2:
            time.sleep(3)
        if communicator.rank == 0:
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            communicator.all_reduce(x)
        except KeyboardInterrupt:
            print("KeyboardInterrupt")
        except mixcomm.Timeout as error:
            print(error.missing, error)
        """,
        ranks=3,
    )
    assert outputs[0].strip() == "KeyboardInterrupt"
    assert "(0,) rank 0 was interrupted" in outputs[1]
    assert time.monotonic() - started < 55


def test_from_env():
    """Processes find each other by the launcher's variables; several communicators share one rendezvous."""
    outputs = script(
        """
        import numpy, mixcomm
        with mixcomm.Communicator.from_env(tp=2) as first, mixcomm.Communicator.from_env(dp=2) as second:
            print(int(first.all_reduce(numpy.full((1, 1), 1.0 + first.rank, numpy.float32))[0, 0]))
            print(second.all_gather(numpy.full((1, 1), 1.0 + first.rank, numpy.float32)).ravel().tolist())
        """,
        ranks=2,
    )
    assert outputs == ["3\n[1.0, 2.0]\n"] * 2


def test_from_mpi():
    """Anything with allgather and Get_rank will do; mpi4py's communicators have them."""
    point = threading.Barrier(2)
    shared = [None, None]

    class Comm:
        def __init__(self, rank):
            self.rank = rank

        def Get_rank(self):  # noqa: N802
            return self.rank

        def allgather(self, value):
            shared[self.rank] = value
            point.wait(30)
            return list(shared)

    results = {}

    def run(rank):
        with mixcomm.Communicator.from_mpi(Comm(rank), tp=2) as communicator:
            results[rank] = communicator.all_reduce(ONES)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all((results[rank] == 2).all() for rank in range(2))


def test_info_and_plan():
    """What was agreed, and what auto would run."""
    with mixcomm.Communicator(mixcomm.from_env()) as communicator:
        info = communicator.info()
        assert (info["tp"], info["dp"], info["rank"], info["backend"]) == (1, 1, 0, "cpu")
        plan = communicator.plan("all_reduce_all_gather", 4, 4096)
        assert plan["algorithm"] in ("one_shot", "two_shot")
        assert plan["bytes"] == 4 * 4096 * 2
        assert plan["why"]
    assert mixcomm.info()["version"] == mixcomm.__version__


def test_nothing_leaks():
    """1,000 communicators, made, used and dropped: no more descriptors, mappings or memory than before."""

    def usage():
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * 4096
        with open("/proc/self/maps") as file:
            return len(os.listdir("/proc/self/fd")), len(file.readlines()), resident

    def rank(bootstrap):
        for _ in range(250):
            communicator = mixcomm.Communicator(bootstrap, tp=2, workspace_bytes=65536)
            array = communicator.empty((4, 4))
            communicator.all_reduce(array, out=array)

    warm = mixcomm.Communicator(mixcomm.from_env())
    del warm
    mixcomm.run_threads(2, rank)  # 250 on each of two ranks, twice
    before = usage()
    mixcomm.run_threads(2, rank)
    after = usage()
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 20
    assert after[2] <= before[2] + (8 << 20)


def test_import_needs_nothing():
    """Neither torch nor numpy is imported until it is used."""
    script("import sys, mixcomm; assert not {'torch', 'numpy'} & set(sys.modules)")


def test_signals_of_other_threads_do_not_disturb():
    """A handled signal during a wait ends nothing."""
    outputs = script(
        """
        import os, signal, threading, time, numpy, mixcomm
        signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
        communicator = mixcomm.Communicator.from_env(tp=2)
        if communicator.rank == 1:
            time.sleep(1.5)
        else:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        print(int(communicator.all_reduce(numpy.ones((1, 1), numpy.float32))[0, 0]))
        """,
        ranks=2,
    )
    assert outputs == ["handled\n2\n", "2\n"]


def test_signal_module_is_untouched():
    """The package installs no handler."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
