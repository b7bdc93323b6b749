#include "cuda/kernel_body.cuh"

namespace mixcomm::cuda {

template <>
KernelTable kernel_table<float>() {
  return kernels_of<float>();
}

}  // namespace mixcomm::cuda
