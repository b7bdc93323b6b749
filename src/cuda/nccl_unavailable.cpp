// Stands in for what uses the caller's NCCL communicator, in builds without NCCL's headers.
#include <string>

#include "cuda/nccl_collectives.hpp"
#include "cuda/nccl_crossing.hpp"
#include "cuda/nccl_memory.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

constexpr const char* how =
    ", but this library was built without NCCL's headers; build it where nccl_device.h of NCCL 2.28 or later "
    "is "
    "(name its directory in MIXCOMM_NCCL_INCLUDE_DIR)";

[[noreturn]] void refuse(const char* option) {
  throw Unsupported(std::string(option) + " is set" + how + ", or leave the option out");
}

}  // namespace

struct NcclCollectives::State {};

NcclCollectives::NcclCollectives(void* /*nccl_comm*/, const Grid& /*grid*/) {
  refuse("CudaOptions::nccl");
}

NcclCollectives::~NcclCollectives() = default;

void NcclCollectives::run(const Call& /*call*/) {}

std::unique_ptr<NcclCollectives> make_nccl_collectives(Bootstrap& /*bootstrap*/, void* nccl_comm,
                                                       const Grid& grid) {
  return std::make_unique<NcclCollectives>(nccl_comm, grid);
}

std::unique_ptr<MemoryProvider> make_nccl_memory_provider(Bootstrap& /*bootstrap*/, int /*device*/,
                                                          void* /*nccl_comm*/, Milliseconds /*timeout*/) {
  refuse("CudaOptions::nccl_windows");
}

std::unique_ptr<Crossing> make_nccl_crossing(const NcclCrossingSetup& /*setup*/) {
  throw Unsupported(std::string("ranks with GPUs are on several hosts, which NCCL joins") + how +
                    ", or make communicators of one host's ranks each");
}

}  // namespace mixcomm::cuda
