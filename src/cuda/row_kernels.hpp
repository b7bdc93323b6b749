// What the host knows of the kernels for operations with an epilogue: their addresses.
#pragma once

#include "cuda/row_arguments.hpp"
#include "mixcomm/tensor.hpp"

namespace mixcomm::cuda {

/// The kernels of one dtype, each taking one RowArguments, by Wire.
struct RowKernelTable {
  void* kernel[2] = {};
};

template <class T>
RowKernelTable row_kernel_table();
template <>
RowKernelTable row_kernel_table<bf16>();
template <>
RowKernelTable row_kernel_table<fp16>();
template <>
RowKernelTable row_kernel_table<float>();

}  // namespace mixcomm::cuda
