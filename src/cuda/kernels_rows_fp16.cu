#include "cuda/row_kernel.cuh"

namespace mixcomm::cuda {

template <>
RowKernelTable row_kernel_table<fp16>() {
  return row_kernels_of<fp16>();
}

}  // namespace mixcomm::cuda
