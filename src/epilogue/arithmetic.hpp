// The arithmetic of epilogues, for the host and for GPUs: what include/mixcomm/epilogue.hpp says, one row at
// a time. On the host nothing fuses a product and a sum: all of the project is compiled with
// -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "mixcomm/portability.hpp"

namespace mixcomm::epilogue {

/// Squares are summed in groups of so many columns ...
inline constexpr std::size_t group = 8;
/// ... and group g is added to accumulator g mod `accumulators`. A warp holds them as four each: lane l has
/// l, l + 32, l + 64 and l + 96.
inline constexpr std::size_t accumulators = 128;

/// The largest number of E4M3.
inline constexpr float most_fp8 = 448.0F;
/// Scales are made for no less than this.
inline constexpr float least_maximum = 1e-10F;

/// Operations that are rounded, each by itself.
[[nodiscard]] MIXCOMM_HD inline float times(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
[[nodiscard]] MIXCOMM_HD inline float plus(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
[[nodiscard]] MIXCOMM_HD inline float over(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}
[[nodiscard]] MIXCOMM_HD inline float root(float a) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(a);
#else
  return std::sqrt(a);
#endif
}

[[nodiscard]] MIXCOMM_HD inline std::uint32_t bits_of(float a) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &a, sizeof(bits));
  return bits;
}
[[nodiscard]] MIXCOMM_HD inline float float_of(std::uint32_t bits) {
  float a = 0;
  std::memcpy(&a, &bits, sizeof(a));
  return a;
}

/// The sum of squares of the columns of one group.
[[nodiscard]] MIXCOMM_HD inline float squares_of(const float (&r)[group]) {
  const auto pair = [&](int i) { return plus(times(r[i], r[i]), times(r[i + 1], r[i + 1])); };
  return plus(plus(pair(0), pair(2)), plus(pair(4), pair(6)));
}

/// 1 / sqrt(mean + eps).
[[nodiscard]] MIXCOMM_HD inline float inverse_rms_of_mean(float mean, float eps) {
  return over(1.0F, root(plus(mean, eps)));
}
/// 1 / sqrt(s / hidden + eps).
[[nodiscard]] MIXCOMM_HD inline float inverse_rms(float s, std::size_t hidden, float eps) {
  return inverse_rms_of_mean(over(s, static_cast<float>(hidden)), eps);
}

/// What a column is multiplied by.
[[nodiscard]] MIXCOMM_HD inline float factor(float weight, bool plus_one) {
  return plus_one ? plus(1.0F, weight) : weight;
}

/// y, before it is rounded.
[[nodiscard]] MIXCOMM_HD inline float normed(float r, float inverse, float factor) {
  return times(times(r, inverse), factor);
}

/// The larger of `most` and |y|; a NaN counts for nothing.
[[nodiscard]] MIXCOMM_HD inline float larger(float most, float y) {
  const float size = y < 0 ? -y : y;
  return size > most ? size : most;
}

/// The scale of columns of which `most` is the largest, by larger() from 0 on.
[[nodiscard]] MIXCOMM_HD inline float scale_of(float most) {
  return over(most > least_maximum ? most : least_maximum, most_fp8);
}

/// The nearest E4M3, ties to even, at most 448; 7F for a NaN. What cvt.rn.satfinite.e4m3x2.f32 gives.
[[nodiscard]] MIXCOMM_HD inline std::uint8_t to_fp8(float x) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t size = bits & 0x7FFFFFFFU;
  const std::uint32_t sign = bits >> 24U & 0x80U;
  std::uint32_t code = 0;
  if (size > 0x7F800000U) return 0x7F;
  if (size >= 0x43E00000U)  // 448
    code = 0x7E;
  else if (size <
           0x3C800000U)  // 2^-6, below which steps are 2^-9: the last bit of 2^14, which rounds to them
    code = bits_of(plus(float_of(size), 16384.0F)) - 0x46800000U;
  else  // three bits behind the point are kept, and exponents begin at 2^-7
    code = ((size + 0x7FFFFU + (size >> 20U & 1U)) >> 20U) - (120U << 3U);
  return static_cast<std::uint8_t>(sign | code);
}

[[nodiscard]] MIXCOMM_HD inline std::uint8_t quantized(float y, float scale) {
  return to_fp8(over(y, scale));
}

}  // namespace mixcomm::epilogue
