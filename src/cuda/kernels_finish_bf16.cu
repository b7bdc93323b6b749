#include "cuda/finish_kernel.cuh"

namespace mixcomm::cuda {

template <>
FinishKernelTable finish_kernel_table<bf16>() {
  return finish_kernels_of<bf16>();
}

}  // namespace mixcomm::cuda
