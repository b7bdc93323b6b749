#include "cuda/finish_kernel.cuh"

namespace mixcomm::cuda {

template <>
FinishKernelTable finish_kernel_table<fp16>() {
  return finish_kernels_of<fp16>();
}

}  // namespace mixcomm::cuda
