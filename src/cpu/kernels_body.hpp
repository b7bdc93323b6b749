// The kernels' code, compiled once per instruction set: each includer defines MIXCOMM_ISA, its namespace.
#ifndef MIXCOMM_ISA
#error "define MIXCOMM_ISA before including kernels_body.hpp"
#endif

#include <bit>
#include <cstdint>
#include <cstring>

#include "cpu/kernels.hpp"

namespace mixcomm::cpu::MIXCOMM_ISA {
namespace {

/// Elements summed at a time: the accumulators stay in the first-level cache (or in registers).
constexpr std::size_t block = 128;

inline float to_float(float x) {
  return x;
}
inline float to_float(bf16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16U);
}
inline float to_float(fp16 x) {
  return static_cast<float>(std::bit_cast<_Float16>(x.bits));
}

inline void round_to(float x, float& out) {
  out = x;
}
inline void round_to(float x, bf16& out) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U;
  const std::uint32_t nan = (bits >> 16U) | 0x40U;  // quiet, sign and payload kept
  out.bits = static_cast<std::uint16_t>((bits & 0x7FFFFFFFU) > 0x7F800000U ? nan : rounded);
}
inline void round_to(float x, fp16& out) {
  out.bits = std::bit_cast<std::uint16_t>(static_cast<_Float16>(x));
}

template <class T>
inline void load(float* accumulator, const T* source, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) accumulator[i] = to_float(source[i]);
}
template <class T>
inline void add(float* accumulator, const T* source, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) accumulator[i] += to_float(source[i]);
}

template <class T>
inline void sum_block(const OrderedSum& sum, std::size_t begin, std::size_t n) {
  const auto source = [&](int s, int o) {
    return static_cast<const T*>(sum.sources[o * sum.inner + s]) + begin;
  };
  alignas(64) float total[block];
  load(total, source(0, 0), n);
  for (int s = 1; s < sum.inner; ++s) add(total, source(s, 0), n);
  for (int o = 1; o < sum.outer; ++o) {
    alignas(64) float partial[block];
    load(partial, source(0, o), n);
    for (int s = 1; s < sum.inner; ++s) add(partial, source(s, o), n);
    for (std::size_t i = 0; i < n; ++i) total[i] += partial[i];
  }
  alignas(64) T rounded[block];
  for (std::size_t i = 0; i < n; ++i) round_to(total[i], rounded[i]);
  for (int k = 0; k < sum.destination_count; ++k)
    std::memcpy(static_cast<T*>(sum.destinations[k]) + begin, rounded, n * sizeof(T));
}

template <class T>
void ordered_sum_of(const OrderedSum& sum) {
  std::size_t begin = 0;
  for (; begin + block <= sum.size; begin += block) sum_block<T>(sum, begin, block);
  if (begin < sum.size) sum_block<T>(sum, begin, sum.size - begin);
}

}  // namespace

void ordered_sum(const OrderedSum& sum) {
  switch (sum.dtype) {
    case DType::bf16:
      return ordered_sum_of<bf16>(sum);
    case DType::fp16:
      return ordered_sum_of<fp16>(sum);
    case DType::fp32:
      return ordered_sum_of<float>(sum);
  }
}

}  // namespace mixcomm::cpu::MIXCOMM_ISA
