#include "cuda/finish_kernel.cuh"

namespace mixcomm::cuda {

template <>
FinishKernelTable finish_kernel_table<float>() {
  return finish_kernels_of<float>();
}

}  // namespace mixcomm::cuda
