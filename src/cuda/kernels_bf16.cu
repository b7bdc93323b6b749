#include "cuda/kernel_body.cuh"

namespace mixcomm::cuda {

template <>
KernelTable kernel_table<bf16>() {
  return kernels_of<bf16>();
}

}  // namespace mixcomm::cuda
