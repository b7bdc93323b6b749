// Built with CUDA only.
#include "measure/gpu/nccl.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>

#include "cuda/driver.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::tools {
namespace {

/// What is needed of nccl.h, which a machine that builds this need not have. The same in every NCCL 2.
struct UniqueId {
  char bytes[128];
};
using Result = int;  // 0 is success
struct Nccl {
  Result (*get_version)(int*);
  Result (*get_unique_id)(UniqueId*);
  Result (*comm_init_rank)(void**, int, UniqueId, int);
  Result (*comm_destroy)(void*);
  const char* (*get_error_string)(Result);
};

constexpr const char* way_out =
    "install NCCL 2 (package libnccl2) and name its directory in LD_LIBRARY_PATH, or leave out nccl";

template <class F>
void look_up(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr) throw Unsupported(fmt::format("libnccl.so.2 has no {}; {}", name, way_out));
}

const Nccl& nccl() {
  static const Nccl functions = [] {
    void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
      throw Unsupported(fmt::format("NCCL cannot be loaded: {}; {}", dlerror(), way_out));
    Nccl found{};
    look_up(library, "ncclGetVersion", found.get_version);
    look_up(library, "ncclGetUniqueId", found.get_unique_id);
    look_up(library, "ncclCommInitRank", found.comm_init_rank);
    look_up(library, "ncclCommDestroy", found.comm_destroy);
    look_up(library, "ncclGetErrorString", found.get_error_string);
    return found;
  }();
  return functions;
}

void check(Result result, const char* what) {
  if (result != 0)
    throw Unsupported(
        fmt::format("NCCL: {}: {} (NCCL_DEBUG=WARN says more); leave out nccl to measure without it", what,
                    nccl().get_error_string(result)));
}

std::string version_text() {
  int version = 0;
  check(nccl().get_version(&version), "reading its version");
  return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

/// Rank 0's, on all ranks.
UniqueId shared_id(Bootstrap& bootstrap) {
  UniqueId id{};
  if (bootstrap.rank() == 0) check(nccl().get_unique_id(&id), "making an id");
  const std::string mine = bootstrap.rank() == 0 ? std::string(id.bytes, sizeof(id.bytes)) : "";
  const std::string first = bootstrap.exchange("sharing NCCL's id", mine)[0];
  if (first.size() != sizeof(id.bytes)) throw SystemError("rank 0 sent no id of NCCL");
  first.copy(id.bytes, sizeof(id.bytes));
  return id;
}

}  // namespace

NcclCommunicator::NcclCommunicator(Bootstrap& bootstrap, const GpuPlace& place) {
  about_ = version_text();
  const int rank = bootstrap.rank();
  if (place.ranks == RanksOn::streams)
    throw Unsupported("NCCL refuses ranks that share a GPU in one process; use --processes");
  if (place.ranks == RanksOn::processes) {
    // NCCL refuses two ranks on one GPU of one host. With a NCCL_HOSTID each it takes them for two hosts.
    setenv("NCCL_HOSTID", fmt::format("mixcomm-rank-{}", rank).c_str(), 1);
    about_ += ", over sockets, because ranks share a GPU";
  }
  const UniqueId id = shared_id(bootstrap);
  check(nccl().comm_init_rank(&communicator_, bootstrap.world(), id, rank), "making a communicator");
}

NcclCommunicator::~NcclCommunicator() {
  if (communicator_ != nullptr) (void)nccl().comm_destroy(communicator_);
}

}  // namespace mixcomm::tools
