// The kernels' code, compiled once per instruction set: each includer defines MIXCOMM_ISA, its namespace.
#ifndef MIXCOMM_ISA
#error "define MIXCOMM_ISA before including kernels_body.hpp"
#endif

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/kernels.hpp"

namespace mixcomm::cpu::MIXCOMM_ISA {
namespace {

inline float to_float(float x) {
  return x;
}
inline float to_float(bf16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16U);
}
inline float to_float(fp16 x) {
  return static_cast<float>(std::bit_cast<_Float16>(x.bits));
}

/// To the nearest bf16, ties to even; a NaN stays one, quiet, with its sign and payload. Word is uint32 or a
/// vector of them.
template <class Word>
inline Word bf16_bits(Word bits) {
  const Word rounded = (bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U;
  const Word nan = (bits >> 16U) | 0x40U;
  return (bits & 0x7FFFFFFFU) > 0x7F800000U ? nan : rounded;
}

inline void round_to(float x, float& out) {
  out = x;
}
inline void round_to(float x, bf16& out) {
  out.bits = static_cast<std::uint16_t>(bf16_bits(std::bit_cast<std::uint32_t>(x)));
}
inline void round_to(float x, fp16& out) {
  out.bits = std::bit_cast<std::uint16_t>(static_cast<_Float16>(x));
}

// Vectors of the compiler's, as wide as the widest registers; narrower ones take several.
constexpr std::size_t lanes = 16;
using Floats = float __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));
using HalfWords = std::uint16_t __attribute__((vector_size(32)));

template <class T>
inline Floats load(const T* source) {
  Floats vector;
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(&vector, source, sizeof(vector));
  } else if constexpr (std::is_same_v<T, bf16>) {
    HalfWords halves;
    std::memcpy(&halves, source, sizeof(halves));
    vector = std::bit_cast<Floats>(__builtin_convertvector(halves, Words) << 16U);
  } else {
    for (std::size_t i = 0; i < lanes; ++i) vector[i] = to_float(source[i]);
  }
  return vector;
}

template <class T>
inline void store(const Floats& vector, T* destination) {
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(destination, &vector, sizeof(vector));
  } else if constexpr (std::is_same_v<T, bf16>) {
    const HalfWords halves = __builtin_convertvector(bf16_bits(std::bit_cast<Words>(vector)), HalfWords);
    std::memcpy(destination, &halves, sizeof(halves));
  } else {
    for (std::size_t i = 0; i < lanes; ++i) round_to(vector[i], destination[i]);
  }
}

/// The sums of `lanes` x `vectors` elements, in registers: all sources are read before anything is written.
template <std::size_t vectors, class T>
inline void sum_vectors(const OrderedSum& sum, std::size_t begin) {
  const auto source = [&](int s, int o) {
    return static_cast<const T*>(sum.sources[o * sum.inner + s]) + begin;
  };
  const auto sum_over_inner = [&](int o, Floats(&partial)[vectors]) {
    for (std::size_t v = 0; v < vectors; ++v) partial[v] = load(source(0, o) + v * lanes);
    for (int s = 1; s < sum.inner; ++s)
      for (std::size_t v = 0; v < vectors; ++v) partial[v] += load(source(s, o) + v * lanes);
  };
  Floats total[vectors];
  sum_over_inner(0, total);
  for (int o = 1; o < sum.outer; ++o) {
    Floats partial[vectors];
    sum_over_inner(o, partial);
    for (std::size_t v = 0; v < vectors; ++v) total[v] += partial[v];
  }
  for (int k = 0; k < sum.destination_count; ++k)
    for (std::size_t v = 0; v < vectors; ++v)
      store(total[v], static_cast<T*>(sum.destinations[k]) + begin + v * lanes);
}

template <class T>
inline void sum_element(const OrderedSum& sum, std::size_t i) {
  const auto source = [&](int s, int o) {
    return to_float(static_cast<const T*>(sum.sources[o * sum.inner + s])[i]);
  };
  const auto sum_over_inner = [&](int o) {
    float partial = source(0, o);
    for (int s = 1; s < sum.inner; ++s) partial += source(s, o);
    return partial;
  };
  float total = sum_over_inner(0);
  for (int o = 1; o < sum.outer; ++o) total += sum_over_inner(o);
  for (int k = 0; k < sum.destination_count; ++k) round_to(total, static_cast<T*>(sum.destinations[k])[i]);
}

template <class T>
void ordered_sum_of(const OrderedSum& sum) {
  constexpr std::size_t vectors = 4;
  std::size_t i = 0;
  for (; i + vectors * lanes <= sum.size; i += vectors * lanes) sum_vectors<vectors, T>(sum, i);
  for (; i + lanes <= sum.size; i += lanes) sum_vectors<1, T>(sum, i);
  for (; i < sum.size; ++i) sum_element<T>(sum, i);
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
