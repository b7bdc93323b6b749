#include "cuda/row_kernel.cuh"

namespace mixcomm::cuda {

template <>
RowKernelTable row_kernel_table<float>() {
  return row_kernels_of<float>();
}

}  // namespace mixcomm::cuda
