// Numbers of the dtypes, in plain scalar code that shares nothing with the library's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mixcomm/tensor.hpp"

namespace mixcomm::verify {

/// The value of `bits`; exact.
[[nodiscard]] float decode(DType dtype, std::uint32_t bits);

/// The bits of `value` rounded to the nearest, ties to even; with fp8_e4m3 at most 448. For anything but NaN.
[[nodiscard]] std::uint32_t encode(DType dtype, float value);

/// The bits of element i of a buffer of any alignment.
[[nodiscard]] std::uint32_t load(DType dtype, const std::byte* data, std::size_t i);
void store(DType dtype, std::byte* data, std::size_t i, std::uint32_t bits);

/// Spreads 64 bits: neighbours give unrelated values.
[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

}  // namespace mixcomm::verify
