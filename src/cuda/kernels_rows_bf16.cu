#include "cuda/row_kernel.cuh"

namespace mixcomm::cuda {

template <>
RowKernelTable row_kernel_table<bf16>() {
  return row_kernels_of<bf16>();
}

}  // namespace mixcomm::cuda
