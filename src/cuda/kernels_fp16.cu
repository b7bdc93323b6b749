#include "cuda/kernel_body.cuh"

namespace mixcomm::cuda {

template <>
KernelTable kernel_table<fp16>() {
  return kernels_of<fp16>();
}

}  // namespace mixcomm::cuda
