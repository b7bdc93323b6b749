// Element-wise arithmetic of the decoder, and where it rounds.
//
// Activations are held as float. With dtype bf16 they are rounded to bf16 at the points where a model in bf16
// rounds (the output of each module and of each element-wise operation between modules), so that they convert
// to bf16 without loss wherever bf16 is really used: in matrix products and on the wire.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "mixcomm/tensor.hpp"

namespace mixcomm::runner {

/// The bits of `x` rounded to bf16: to nearest, ties to even; NaN stays NaN.
[[nodiscard]] inline std::uint16_t bf16_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U;
  const std::uint32_t quiet_nan = (bits >> 16U) | 0x40U;
  return static_cast<std::uint16_t>(x != x ? quiet_nan : rounded);
}

[[nodiscard]] inline float from_bf16_bits(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
}

/// The compute dtype, as the rounding that it asks for.
class Precision {
 public:
  explicit Precision(DType dtype) : bf16_(dtype == DType::bf16) {}

  [[nodiscard]] bool is_bf16() const { return bf16_; }
  [[nodiscard]] DType dtype() const { return bf16_ ? DType::bf16 : DType::fp32; }

  /// `x` as the compute dtype holds it. The branch is loop-invariant: the compiler makes two loops of one.
  [[nodiscard]] float round(float x) const { return bf16_ ? from_bf16_bits(bf16_bits(x)) : x; }

  void round(std::span<float> values) const {
    if (!bf16_) return;
    for (float& value : values) value = from_bf16_bits(bf16_bits(value));
  }

 private:
  bool bf16_;
};

[[nodiscard]] inline float sigmoid(float x) {
  return 1.0F / (1.0F + std::exp(-x));
}
[[nodiscard]] inline float silu(float x) {
  return x / (1.0F + std::exp(-x));
}

/// log(1 + exp(x)); x itself where the difference is below fp32 (PyTorch's threshold).
[[nodiscard]] inline float softplus(float x) {
  return x > 20.0F ? x : std::log1p(std::exp(x));
}

/// Sum of products in 16 lanes: an order that the compiler may vectorize and that is the same on every
/// machine.
[[nodiscard]] inline float dot(const float* a, const float* b, std::size_t n) {
  constexpr std::size_t lanes = 16;
  float sums[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (std::size_t j = 0; j < lanes; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (std::size_t j = 0; i < n; ++i, ++j) sums[j] += a[i] * b[i];
  for (std::size_t width = lanes / 2; width > 0; width /= 2) {
    for (std::size_t j = 0; j < width; ++j) sums[j] += sums[j + width];
  }
  return sums[0];
}

/// The first `n` values of a scratch vector that only ever grows: nothing is allocated once it is large
/// enough.
[[nodiscard]] inline std::span<float> grown(std::vector<float>& scratch, std::size_t n) {
  if (scratch.size() < n) scratch.resize(n);
  return {scratch.data(), n};
}

}  // namespace mixcomm::runner
