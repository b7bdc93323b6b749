// What an operation does with the rows that it has summed, before it hands them out: the residual added, the
// RMSNorm, and FP8 for what follows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "mixcomm/portability.hpp"
#include "mixcomm/tensor.hpp"

namespace MIXCOMM_API mixcomm {

/// How the result becomes FP8 E4M3, and what its scales belong to.
enum class Quantize : std::uint8_t {
  none,
  per_token,        ///< one scale a row
  per_128_columns,  ///< one for each 128 columns of a row, the last ones of a row may be fewer
  fixed,            ///< one scale for all, which the caller has
};

[[nodiscard]] std::string_view name(Quantize quantize);
/// The value of that name. Throws InvalidArgument, with the names, for any other.
[[nodiscard]] Quantize quantize_from_name(std::string_view name);

/// Columns that share a scale with Quantize::per_128_columns.
inline constexpr std::size_t scale_columns = 128;

/// How many scales a row of `hidden` columns has: 0 where none are made.
[[nodiscard]] constexpr std::size_t scales_per_row(Quantize quantize, std::size_t hidden) {
  if (quantize == Quantize::per_token) return 1;
  if (quantize == Quantize::per_128_columns) return (hidden + scale_columns - 1) / scale_columns;
  return 0;
}

/// An epilogue, passed with a call (CallOptions::epilogue). By default there is none. Its steps, each left
/// out where what it needs is not given, for every row of the operation's result; T is the dtype of `in`, all
/// arithmetic is fp32, each result of one operation rounded to nearest, and no product is fused with a sum:
///
///   x = sum + residual                   the operation's ordered sum, not rounded, and the residual last
///   r = T(x)                             what the norm reads, and residual_out gets
///   y = T((r * (1 / sqrt(s / hidden + eps))) * w)      w is the weight, or 1 + weight
///   q = E4M3(y / scale)                  scale = max(|y| of a row or 128 columns, 1e-10) / 448, or the fixed
///   one
///
/// `s` is the sum of r * r, in one order, which depends on `hidden` alone: columns in groups of 8 (what is
/// missing counts as 0), each summed as ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)); group g is added to
/// accumulator g mod 128, in the order of g, beginning with 0; and the accumulators are folded in half, the
/// upper half added to the lower one, until one is left. Square root and division are IEEE's. E4M3 rounds to
/// nearest, ties to even; beyond 448, infinities too, it is 448; a NaN is the bits 7F.
///
/// So a row's results are the same bits on every rank, with every algorithm and backend, and in whatever
/// batch the row is; and an operation that adds, followed by apply() of the rest, gives what the operation
/// gives with all of it. (Except `composed` of reduce_scatter_all_reduce, whose sum has other last bits.)
///
/// `out` holds y, or r where there is no norm; with `quantize` it holds q, and its dtype is fp8_e4m3. Where
/// the operation gathers, every rank gets the rows of all DP ranks, but `residual_out` is of its own rows
/// alone: the gathered rows travel as they are in `out`, FP8 with their scales.
///
/// All ranks of a call have the same epilogue (else Disagreement): which steps there are, whether
/// residual_out is wanted, eps, weight_plus_one and quantize. What the tensors hold is not compared: residual
/// is the same on the TP ranks of a DP rank, which adds it once; weight and fixed_scale are the same on all
/// ranks.
///
/// Memory is the backend's, of any alignment to elements; symmetric or not makes no difference to it.
/// residual_out may be residual, at the same place. Nothing else may overlap what is written, with FP8 `in`
/// neither.
struct Epilogue {
  /// rows[d] x hidden, of T: the residual of this DP rank's rows. With hidden 0 none is added (a rank without
  /// rows says by `hidden` that the others add one; its data may be null).
  ConstTensor residual{};
  /// rows[d] x hidden, of T: r of this DP rank's rows. With hidden 0 it is not wanted.
  Tensor residual_out{};
  /// 1 x hidden, of T. With hidden 0 there is no norm.
  ConstTensor weight{};
  float eps = 1e-6F;             ///< 0 or above
  bool weight_plus_one = false;  ///< Gemma, Qwen3-Next and Qwen3.5 keep w - 1
  Quantize quantize = Quantize::none;
  /// Rows of `out` x scales_per_row(), row-major, 4-byte aligned: the scales of `out`, by which q is to be
  /// multiplied. Null for none.
  float* scales = nullptr;
  /// Quantize::fixed: one number above 0.
  const float* fixed_scale = nullptr;

  [[nodiscard]] constexpr bool adds() const { return residual.hidden != 0; }
  [[nodiscard]] constexpr bool keeps() const { return residual_out.hidden != 0; }
  [[nodiscard]] constexpr bool norms() const { return weight.hidden != 0; }
  [[nodiscard]] constexpr bool quantizes() const { return quantize != Quantize::none; }
  /// Whether there is anything to do.
  [[nodiscard]] constexpr bool any() const { return adds() || keeps() || norms() || quantizes(); }
};

/// The steps of an epilogue by themselves, on rows in host memory: what an operation does whose ordered sum
/// is `in`, the same bits. in, out: n x hidden; all rows are this rank's, so residual and residual_out have
/// n. `out` may be `in`, at the same place, unless it is FP8. Throws InvalidArgument.
void apply(const Epilogue& epilogue, ConstTensor in, Tensor out);

/// out = T((in * (1 / sqrt(mean of in * in + eps))) * weight), row by row, by apply(). in, out: n x hidden;
/// weight: 1 x hidden; `out` may be `in`.
void rms_norm(ConstTensor in, ConstTensor weight, Tensor out, float eps = 1e-6F);

}  // namespace mixcomm
