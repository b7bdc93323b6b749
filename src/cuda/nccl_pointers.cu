#include "cuda/nccl_pointers.hpp"

#include <nccl.h>
#include <nccl_device.h>

namespace mixcomm::cuda {
namespace {

__global__ void lsa_pointers(ncclWindow_t window, int ranks, void** pointers) {
  const int rank = static_cast<int>(threadIdx.x);
  if (rank < ranks) pointers[rank] = ncclGetLsaPointer(window, 0, rank);
}

}  // namespace

void* lsa_pointers_kernel() {
  return reinterpret_cast<void*>(lsa_pointers);
}

}  // namespace mixcomm::cuda
