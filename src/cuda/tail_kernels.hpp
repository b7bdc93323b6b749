// What the host knows of the kernels that finish rows behind plain sums: their addresses.
#pragma once

#include "cuda/kernels.hpp"

namespace mixcomm::cuda {

/// Of one dtype: operations, each taking one TailArguments, none between barriers; and the kernels that finish
/// rows, which take FinishArguments: one for sums that have their residual, one that adds it, both for aligned
/// rows of whole groups of columns, and one for all others.
struct TailKernelTable {
  KernelTable operations;
  void* finish = nullptr;
  void* add_and_finish = nullptr;
  void* finish_unaligned = nullptr;
};

template <class T>
TailKernelTable tail_kernel_table();
template <>
TailKernelTable tail_kernel_table<bf16>();
template <>
TailKernelTable tail_kernel_table<fp16>();
template <>
TailKernelTable tail_kernel_table<float>();

}  // namespace mixcomm::cuda
