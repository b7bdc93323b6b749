// The arithmetic: ordered sums of runs of elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "mixcomm/epilogue.hpp"
#include "mixcomm/tensor.hpp"

namespace mixcomm::cpu {

/// How memory is written. `streamed` (non-temporal): past the caches, for what another processor reads next,
/// and had read before: taking such lines back from its cache costs more than the way through memory. Only
/// where the destination is aligned to 64 bytes; else as `cached`. Fenced: what is written later is seen
/// later.
enum class Stores : std::uint8_t { cached, streamed };

/// destination[k][i] = round(ordered sum of sources[o * inner + s][i], 0 <= s < inner, 0 <= o < outer),
/// 0 <= i < size: the tree of neighbours over s, then over o (SumOrder), in fp32, rounded once.
/// One source is copied bit by bit. A destination may be a source; no other overlap.
struct OrderedSum {
  DType dtype = DType::fp32;  ///< of the sources
  const void* const* sources = nullptr;
  int inner = 1;
  int outer = 1;
  void* const* destinations = nullptr;
  int destination_count = 1;
  int streamed_count = 0;  ///< how many destinations, counted from the end, take Stores::streamed
  std::size_t size = 0;
  DType out = dtype;  ///< of the destinations: where it is another one, one of both is fp32
};

void ordered_sum(const OrderedSum& sum);

/// One row with its epilogue (mixcomm/epilogue.hpp): `sum` is what is added up, its destinations get the row
/// of `out`: of sum.out, or with `quantize` of FP8. Residual, weight and what is kept are of sum.out.
struct RowEpilogue {
  OrderedSum sum;
  const void* residual = nullptr;  ///< the row's, or null
  const void* weight = nullptr;
  float eps = 0;
  std::size_t width = 0;  ///< what the mean of squares is over: the row
  bool weight_plus_one = false;
  Quantize quantize = Quantize::none;
  const float* fixed_scale = nullptr;
  std::span<void* const> kept{};     ///< what gets r, two at most; one may be `residual`
  std::span<float* const> scales{};  ///< what gets the row's scales
  void* scratch = nullptr;           ///< room for two rows of sum.out, which finish_row() has
};
/// What all rows of a call have in common, of one whose sum is `sum` and that has `width` columns.
[[nodiscard]] inline RowEpilogue row_epilogue(const Epilogue& steps, const OrderedSum& sum,
                                              std::size_t width) {
  return {.sum = sum,
          .weight = steps.weight.data,
          .eps = steps.eps,
          .width = width,
          .weight_plus_one = steps.weight_plus_one,
          .quantize = steps.quantize,
          .fixed_scale = steps.fixed_scale};
}

void finish_row(RowEpilogue row);

/// memcpy, or nothing where both are the same.
void copy(void* destination, const void* source, std::size_t bytes, Stores stores);

/// The kernels for one instruction set. All give the same bits.
struct Implementation {
  std::string_view name;                   ///< "AVX-512 BF16", "AVX-512", "AVX2" or "baseline"
  void (*ordered_sum)(const OrderedSum&);  ///< of two sources or more, or to another dtype; of elements
  void (*stream)(void* destination, const void* source, std::size_t lines);  ///< 64 bytes each, aligned
  void (*finish_row)(const RowEpilogue&);
};

/// Those that this processor has, the best first; the last one is always there.
[[nodiscard]] std::span<const Implementation> usable_implementations();

/// The instruction set in use: the best, or the one that MIXCOMM_INSTRUCTION_SET names.
[[nodiscard]] std::string_view instruction_set();

}  // namespace mixcomm::cpu
