// What the host knows of the kernels that add residuals and finish rows: their addresses.
#pragma once

#include "cuda/kernels.hpp"

namespace mixcomm::cuda {

/// Of one dtype: operations, each taking one AddArguments, none between barriers, and none over two lines at a
/// time, which have no registers left; and what finishes rows, each taking one FinishArguments: of sums that have their residual,
/// of those that get it now, both for aligned rows of whole groups of columns, and of all others.
struct FinishKernelTable {
  KernelTable operations;
  void* finish = nullptr;
  void* add_and_finish = nullptr;
  void* finish_unaligned = nullptr;
};

template <class T>
FinishKernelTable finish_kernel_table();
template <>
FinishKernelTable finish_kernel_table<bf16>();
template <>
FinishKernelTable finish_kernel_table<fp16>();
template <>
FinishKernelTable finish_kernel_table<float>();

}  // namespace mixcomm::cuda
