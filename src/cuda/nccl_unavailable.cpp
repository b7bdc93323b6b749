// Stands in for what uses the caller's NCCL communicator, in builds without NCCL's headers.
#include <string>

#include "cuda/nccl_collectives.hpp"
#include "cuda/nccl_memory.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

[[noreturn]] void refuse(const char* option) {
  throw Unsupported(
      std::string(option) +
      " is set, but this library was built without NCCL's headers; build it where nccl_device.h of NCCL "
      "2.28 or later is (name its directory in MIXCOMM_NCCL_INCLUDE_DIR), or leave the option out");
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

}  // namespace mixcomm::cuda
