#include "cuda/nccl_library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "bootstrap/deadline.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

constexpr const char* file = "libnccl.so.2";

/// What dlsym() searches.
void* loaded_library() {
  if (dlsym(RTLD_DEFAULT, "ncclGetVersion") != nullptr) return RTLD_DEFAULT;
  void* library =
      dlopen(file, RTLD_NOW | RTLD_NOLOAD);  // as Python has it: visible to those alone that opened it
  if (library == nullptr)
    throw Unsupported(
        fmt::format("a ncclComm_t was given, but this process has no NCCL that can be found: neither are its "
                    "functions visible, nor "
                    "is {} loaded; link the program with NCCL's shared library, not with the static one",
                    file));
  return library;
}

template <class Function>
void look_up(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

template <class Function>
void require(void* library, const char* name, Function& function, int version) {
  look_up(library, name, function);
  if (function == nullptr)
    throw Unsupported(fmt::format("the NCCL in this process{} has no {}; use NCCL 2.19 or later",
                                  version > 0 ? ", " + nccl_version_text(version) + "," : "", name));
}

NcclLibrary load() {
  void* library = loaded_library();
  NcclLibrary n{};
  decltype(&ncclGetVersion) get_version = nullptr;
  require(library, "ncclGetVersion", get_version, 0);
  if (get_version(&n.version) != ncclSuccess)
    throw Unsupported("the NCCL in this process does not tell its version");
  const int v = n.version;
  require(library, "ncclGetErrorString", n.get_error_string, v);
  require(library, "ncclGetLastError", n.get_last_error, v);
  require(library, "ncclCommGetAsyncError", n.comm_get_async_error, v);
  require(library, "ncclCommCount", n.comm_count, v);
  require(library, "ncclCommUserRank", n.comm_user_rank, v);
  require(library, "ncclCommCuDevice", n.comm_cu_device, v);
  require(library, "ncclCommSplit", n.comm_split, v);
  require(library, "ncclCommDestroy", n.comm_destroy, v);
  require(library, "ncclCommAbort", n.comm_abort, v);
  require(library, "ncclGetUniqueId", n.get_unique_id, v);
  require(library, "ncclCommInitRankConfig", n.comm_init_rank_config, v);
  require(library, "ncclGroupStart", n.group_start, v);
  require(library, "ncclGroupEnd", n.group_end, v);
  require(library, "ncclAllReduce", n.all_reduce, v);
  require(library, "ncclAllGather", n.all_gather, v);
  require(library, "ncclReduceScatter", n.reduce_scatter, v);
  require(library, "ncclBroadcast", n.broadcast, v);
  require(library, "ncclReduce", n.reduce, v);
  require(library, "ncclSend", n.send, v);
  require(library, "ncclRecv", n.recv, v);
  require(library, "ncclMemAlloc", n.mem_alloc, v);
  require(library, "ncclMemFree", n.mem_free, v);
  look_up(library, "ncclCommWindowRegister", n.comm_window_register);
  look_up(library, "ncclCommWindowDeregister", n.comm_window_deregister);
  look_up(library, "ncclTeamLsa", n.team_lsa);
  look_up(library, "ncclGetLsaDevicePointer", n.get_lsa_device_pointer);
  return n;
}

}  // namespace

const NcclLibrary& nccl_library() {
  static const NcclLibrary functions = load();
  return functions;
}

void load_nccl() {
  if (dlsym(RTLD_DEFAULT, "ncclGetVersion") != nullptr) return;
  if (dlopen(file, RTLD_NOW | RTLD_LOCAL) != nullptr) return;  // for good, or the same one again
  const char* why = dlerror();
  throw Unsupported(fmt::format(
      "ranks with GPUs are on several hosts, which NCCL joins, but {} cannot be loaded ({}); install "
      "NCCL 2.28 or later (PyTorch brings one), and name its folder in LD_LIBRARY_PATH",
      file, why == nullptr ? "no reason given" : why));
}

std::string nccl_version_text(int version) {
  if (version < 10000)  // as NCCL counted before 2.9
    return fmt::format("{}.{}.{}", version / 1000, version % 1000 / 100, version % 100);
  return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

void check(ncclResult_t result, ncclComm_t comm, const std::string& what) {
  if (result == ncclSuccess) return;
  const NcclLibrary& nccl = nccl_library();
  const char* last = nccl.get_last_error(comm);
  const std::string detail = last == nullptr || *last == '\0' ? "" : fmt::format("; last error: {}", last);
  throw CudaError(fmt::format("{}: NCCL {} says: {} (ncclResult_t {}){}", what,
                              nccl_version_text(nccl.version), nccl.get_error_string(result),
                              static_cast<int>(result), detail));
}

void finish(ncclResult_t result, ncclComm_t comm, const std::string& what, Milliseconds timeout) {
  const Deadline deadline(timeout);
  while (result == ncclInProgress) {
    if (deadline.passed())
      throw Timeout(
          fmt::format("{}: NCCL was not done after {} ms; look for ranks that did not make the same calls",
                      what, timeout.count()));
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    check(nccl_library().comm_get_async_error(comm, &result), comm, what);
  }
  check(result, comm, what);
}

void check_members(ncclComm_t comm, int ranks, int rank, int device, Milliseconds timeout) {
  const NcclLibrary& nccl = nccl_library();
  finish(ncclInProgress, comm, "making the NCCL communicator", timeout);  // it may still be under way
  int its_ranks = 0;
  int its_rank = 0;
  int its_device = 0;
  check(nccl.comm_count(comm, &its_ranks), comm, "asking for the NCCL communicator's ranks");
  check(nccl.comm_user_rank(comm, &its_rank), comm, "asking for the NCCL communicator's rank");
  check(nccl.comm_cu_device(comm, &its_device), comm, "asking for the NCCL communicator's device");
  if (its_ranks != ranks || its_rank != rank)
    throw InvalidArgument(fmt::format(
        "CudaOptions::nccl is rank {} of {}, but this is rank {} of {}; give a ncclComm_t over the same "
        "ranks in the same order",
        its_rank, its_ranks, rank, ranks));
  if (its_device != device)
    throw InvalidArgument(
        fmt::format("CudaOptions::nccl was made on CUDA device {}, but this rank uses device {}; use "
                    "one device for both",
                    its_device, device));
}

}  // namespace mixcomm::cuda
