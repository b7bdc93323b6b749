#include "cuda/tail_kernels.hpp"
namespace mixcomm::cuda {
template <>
TailKernelTable tail_kernel_table<fp16>() {
  return {};
}
}  // namespace mixcomm::cuda
