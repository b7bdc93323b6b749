// What the host knows of the kernels for operations with an epilogue: their addresses.
#pragma once

#include "cuda/row_arguments.hpp"
#include "mixcomm/operation.hpp"
#include "mixcomm/tensor.hpp"

namespace mixcomm::cuda {

/// Over which wire a kernel works; `held`, over lines: threads hold what they sum until they norm it, where
/// rows are aligned and of 16 bits.
enum class RowKind : std::uint8_t { packets, lines, held };

/// The kernels of one dtype, each taking one RowArguments.
struct RowKernelTable {
  void* kernel[3][2][2] = {};  ///< by RowKind, by Body, by whether it is one_shot

  [[nodiscard]] void*& of(RowKind kind, Body body, bool one_shot) {
    return kernel[static_cast<int>(kind)][body == Body::gather ? 1 : 0][one_shot ? 1 : 0];
  }
  [[nodiscard]] void* of(RowKind kind, Body body, bool one_shot) const {
    return kernel[static_cast<int>(kind)][body == Body::gather ? 1 : 0][one_shot ? 1 : 0];
  }
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
