#include "verify/numbers.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace mixcomm::verify {
namespace {

float decode_fp16(std::uint32_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16U;
  const std::uint32_t rest = bits & 0x7FFFU;
  if (rest >= 0x7C00U) return std::bit_cast<float>(sign | 0x7F800000U | (rest & 1023U) << 13U);
  if (rest < 0x400U) {  // subnormal: `rest` times 2^-24
    const float magnitude = static_cast<float>(rest) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((rest << 13U) + (112U << 23U)));
}

std::uint32_t encode_fp16(std::uint32_t bits) {
  const std::uint32_t sign = (bits >> 16U) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  constexpr std::uint32_t too_large =
      0x477FF000U;  // 65520, halfway from the largest number to the one that is not
  constexpr std::uint32_t least_normal = 0x38800000U;
  if (magnitude >= too_large) return sign | 0x7C00U;
  if (magnitude < least_normal) {
    // In a float between 0.5 and 1 the last bit is 2^-24, so adding 0.5 rounds to it.
    const float sum = std::bit_cast<float>(magnitude) + 0.5F;
    return sign | (std::bit_cast<std::uint32_t>(sum) - std::bit_cast<std::uint32_t>(0.5F));
  }
  const std::uint32_t odd = (magnitude >> 13U) & 1U;
  // A carry into the next exponent falls out of the addition.
  return sign | ((magnitude - (112U << 23U) + 0xFFFU + odd) >> 13U);
}

float decode_fp8(std::uint32_t bits) {
  const std::uint32_t rest = bits & 0x7FU;
  const auto exponent = static_cast<int>(rest >> 3U);
  const auto fraction = static_cast<float>(rest & 7U);
  float value = exponent == 0 ? fraction * 0x1p-9F : std::ldexp(8.0F + fraction, exponent - 10);
  if (rest == 0x7FU) value = std::numeric_limits<float>::quiet_NaN();
  return (bits & 0x80U) != 0 ? -value : value;
}

/// In steps of an eighth of the power of two below, of 2^-9 at least.
std::uint32_t encode_fp8(float value) {
  const double size = std::abs(static_cast<double>(value));
  const std::uint32_t sign = std::signbit(value) ? 0x80U : 0U;
  if (size >= 448) return sign | 0x7EU;
  const int exponent = size < 0x1p-6 ? -6 : std::ilogb(size);
  const double steps = std::nearbyint(std::ldexp(size, 3 - exponent));  // to even, as the processor is set
  // Eight more is the next exponent.
  return sign | (static_cast<std::uint32_t>(exponent + 6) * 8 + static_cast<std::uint32_t>(steps));
}

}  // namespace

float decode(DType dtype, std::uint32_t bits) {
  if (dtype == DType::fp8_e4m3) return decode_fp8(bits);
  if (dtype == DType::fp32) return std::bit_cast<float>(bits);
  if (dtype == DType::bf16) return std::bit_cast<float>(bits << 16U);
  return decode_fp16(bits);
}

std::uint32_t encode(DType dtype, float value) {
  if (dtype == DType::fp8_e4m3) return encode_fp8(value);
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (dtype == DType::fp32) return bits;
  if (dtype == DType::fp16) return encode_fp16(bits);
  const std::uint32_t below = bits >> 16U;
  const std::uint32_t rest = bits & 0xFFFFU;
  return rest > 0x8000U || (rest == 0x8000U && (below & 1U) != 0) ? below + 1 : below;
}

std::uint32_t load(DType dtype, const std::byte* data, std::size_t i) {
  if (dtype == DType::fp8_e4m3) return static_cast<std::uint32_t>(data[i]);
  if (dtype == DType::fp32) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, data + i * 4, 4);
    return bits;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, data + i * 2, 2);
  return bits;
}

void store(DType dtype, std::byte* data, std::size_t i, std::uint32_t bits) {
  if (dtype == DType::fp32) {
    std::memcpy(data + i * 4, &bits, 4);
  } else if (dtype == DType::fp8_e4m3) {
    data[i] = static_cast<std::byte>(bits);
  } else {
    const auto half = static_cast<std::uint16_t>(bits);
    std::memcpy(data + i * 2, &half, 2);
  }
}

}  // namespace mixcomm::verify
