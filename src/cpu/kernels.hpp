// The arithmetic: ordered sums of runs of elements.
#pragma once

#include <cstddef>
#include <string_view>

#include "mixcomm/tensor.hpp"

namespace mixcomm::cpu {

/// destination[k][i] = round(ordered sum over o, then over s, of sources[o * inner + s][i]), 0 <= i < size.
///   ((x[0,0] + x[1,0] + ...) + (x[0,1] + x[1,1] + ...)) + ...   in fp32, rounded once.
/// One source is copied bit by bit. A destination may be a source; no other overlap.
struct OrderedSum {
  DType dtype = DType::fp32;
  const void* const* sources = nullptr;
  int inner = 1;
  int outer = 1;
  void* const* destinations = nullptr;
  int destination_count = 1;
  std::size_t size = 0;
};

void ordered_sum(const OrderedSum& sum);

/// The instruction set in use: "AVX-512", "AVX2" or "baseline". All give the same bits.
[[nodiscard]] std::string_view instruction_set();

}  // namespace mixcomm::cpu
