#include "cuda/tail_kernel.cuh"

namespace mixcomm::cuda {

template <>
TailKernelTable tail_kernel_table<bf16>() {
  return tail_kernels_of<bf16>();
}

}  // namespace mixcomm::cuda
