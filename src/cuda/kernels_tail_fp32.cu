#include "cuda/tail_kernels.hpp"
namespace mixcomm::cuda {
template <>
TailKernelTable tail_kernel_table<float>() {
  return {};
}
}  // namespace mixcomm::cuda
