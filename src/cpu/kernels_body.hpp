// The kernels' code, compiled once per instruction set: each includer defines MIXCOMM_ISA, its namespace.
#ifndef MIXCOMM_ISA
#error "define MIXCOMM_ISA before including kernels_body.hpp"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <iterator>
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

// Vectors of the compiler's, as wide as the registers: wider ones, cut up by it, are several times slower.
#if defined(__AVX512F__)
constexpr std::size_t register_bytes = 64;
#elif defined(__AVX2__)
constexpr std::size_t register_bytes = 32;
#else
constexpr std::size_t register_bytes = 16;
#endif
constexpr std::size_t lanes = register_bytes / sizeof(float);
using Floats = float __attribute__((vector_size(register_bytes)));
using Words = std::uint32_t __attribute__((vector_size(register_bytes)));
using HalfWords = std::uint16_t __attribute__((vector_size(register_bytes / 2)));

// Between 16 and 32 bits: in one instruction, for which the compiler's own conversions take ten.
#if defined(__AVX512F__)
constexpr __mmask16 all = 0xFFFF;  // the forms without a mask warn, in g++ 12, of an uninitialized value
inline Words widened(const HalfWords& halves) {
  return std::bit_cast<Words>(_mm512_maskz_cvtepu16_epi32(all, std::bit_cast<__m256i>(halves)));
}
inline HalfWords narrowed(const Words& words) {
  return std::bit_cast<HalfWords>(_mm512_maskz_cvtepi32_epi16(all, std::bit_cast<__m512i>(words)));
}
inline Floats from_fp16(const HalfWords& halves) {
  return std::bit_cast<Floats>(_mm512_maskz_cvtph_ps(all, std::bit_cast<__m256i>(halves)));
}
inline HalfWords to_fp16(const Floats& vector) {
  return std::bit_cast<HalfWords>(_mm512_maskz_cvtps_ph(all, std::bit_cast<__m512>(vector),
                                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__AVX2__)
inline Words widened(const HalfWords& halves) {
  return std::bit_cast<Words>(_mm256_cvtepu16_epi32(std::bit_cast<__m128i>(halves)));
}
inline HalfWords narrowed(const Words& words) {  // each fits into 16 bits
  const auto both = std::bit_cast<__m256i>(words);
  return std::bit_cast<HalfWords>(
      _mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
}
inline Floats from_fp16(const HalfWords& halves) {
  return std::bit_cast<Floats>(_mm256_cvtph_ps(std::bit_cast<__m128i>(halves)));
}
inline HalfWords to_fp16(const Floats& vector) {
  return std::bit_cast<HalfWords>(_mm256_cvtps_ph(std::bit_cast<__m256>(vector), _MM_FROUND_TO_NEAREST_INT));
}
#else
inline Words widened(const HalfWords& halves) {
  return __builtin_convertvector(halves, Words);
}
inline HalfWords narrowed(const Words& words) {
  return __builtin_convertvector(words, HalfWords);
}
inline Floats from_fp16(const HalfWords& halves) {
  Floats vector;
  for (std::size_t i = 0; i < lanes; ++i) vector[i] = to_float(fp16{halves[i]});
  return vector;
}
inline HalfWords to_fp16(const Floats& vector) {
  HalfWords halves;
  for (std::size_t i = 0; i < lanes; ++i)
    halves[i] = std::bit_cast<std::uint16_t>(static_cast<_Float16>(vector[i]));
  return halves;
}
#endif

template <class Vector>
inline Vector read(const void* source) {
  Vector vector;
  std::memcpy(&vector, source, sizeof(vector));
  return vector;
}
inline Floats load(const float* source) {
  return read<Floats>(source);
}
inline Floats load(const bf16* source) {
  return std::bit_cast<Floats>(widened(read<HalfWords>(source)) << 16U);
}
inline Floats load(const fp16* source) {
  return from_fp16(read<HalfWords>(source));
}

template <std::size_t vectors>
inline void round_all(const Floats (&sums)[vectors], Floats (&rounded)[vectors], const float* /*as*/) {
#pragma GCC unroll 8
  for (std::size_t v = 0; v < vectors; ++v) rounded[v] = sums[v];
}
template <std::size_t vectors>
inline void round_all(const Floats (&sums)[vectors], HalfWords (&rounded)[vectors], const fp16* /*as*/) {
#pragma GCC unroll 8
  for (std::size_t v = 0; v < vectors; ++v) rounded[v] = to_fp16(sums[v]);
}
template <std::size_t vectors>
inline void round_all(const Floats (&sums)[vectors], HalfWords (&rounded)[vectors], const bf16* /*as*/) {
#if defined(__AVX512BF16__)
  // One instruction, which gives the bits of bf16_bits() except that it takes subnormal numbers for zero.
  constexpr int subnormal = 0x20;
  unsigned found = 0;
#pragma GCC unroll 8
  for (std::size_t v = 0; v < vectors; ++v)
    found |= _mm512_fpclass_ps_mask(std::bit_cast<__m512>(sums[v]), subnormal);
  if (found == 0) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < vectors; ++v)
      rounded[v] = std::bit_cast<HalfWords>(_mm512_cvtneps_pbh(std::bit_cast<__m512>(sums[v])));
    return;
  }
#endif
#pragma GCC unroll 8
  for (std::size_t v = 0; v < vectors; ++v) rounded[v] = narrowed(bf16_bits(std::bit_cast<Words>(sums[v])));
}

/// Vectors in a row written past the caches, at an address aligned to 64 bytes; whole lines at a time where
/// there are instructions for that.
template <std::size_t vectors, class Vector>
inline void write_past(void* destination, const Vector (&values)[vectors]) {
  constexpr std::size_t bytes = sizeof(values);
#if defined(__AVX512F__)
  static_assert(bytes % 64 == 0);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < bytes / 64; ++i) {
    __m512i line;
    if constexpr (sizeof(Vector) == 64)
      line = std::bit_cast<__m512i>(values[i]);
    else
      line = _mm512_maskz_inserti64x4(0xFF, _mm512_castsi256_si512(std::bit_cast<__m256i>(values[2 * i])),
                                      std::bit_cast<__m256i>(values[2 * i + 1]), 1);
    _mm512_stream_si512(static_cast<__m512i*>(destination) + i, line);
  }
#elif defined(__x86_64__)
  static_assert(bytes % sizeof(__m128i) == 0);
  __m128i parts[bytes / sizeof(__m128i)];
  std::memcpy(parts, values, bytes);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < bytes / sizeof(__m128i); ++i)
    _mm_stream_si128(static_cast<__m128i*>(destination) + i, parts[i]);
#else
  std::memcpy(destination, values, bytes);
#endif
}

/// What was written past the caches is seen before what is written from here on.
inline void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

/// Of the `count` sources below a node of the tree, two or more, how many are on its left: of whole groups of
/// `inner` the largest power of two, of the members of one group the same.
inline int on_the_left(int count, int inner) {
  const int each = count > inner ? inner : 1;
  return each * static_cast<int>(std::bit_floor(static_cast<unsigned>(count / each - 1)));
}

/// So few sources that their tree is written out: its left and its right half. Without any: a tree of any
/// size.
template <int l, int r>
struct Few {
  static constexpr int left = l;
  static constexpr int right = r;
};
using Many = Few<0, 0>;

/// Calls f with the halves of the tree over `sources`, in groups of `inner`.
template <class F>
inline auto with_halves(int sources, int inner, const F& f) {
  switch (sources > 1 ? on_the_left(sources, inner) * 8 + sources : 1) {
    case 1:
      return f(Few<1, 0>());
    case 1 * 8 + 2:
      return f(Few<1, 1>());
    case 2 * 8 + 3:
      return f(Few<2, 1>());
    case 2 * 8 + 4:
      return f(Few<2, 2>());
    case 4 * 8 + 5:
      return f(Few<4, 1>());
    case 4 * 8 + 6:
      return f(Few<4, 2>());
    case 3 * 8 + 6:
      return f(Few<3, 3>());
    case 4 * 8 + 7:
      return f(Few<4, 3>());
    case 4 * 8 + 8:
      return f(Few<4, 4>());
    default:
      return f(Many());
  }
}

/// The sum of `lanes` elements of `count` sources next to each other.
template <class T, int count>
inline Floats add_few(const void* const* sources, std::size_t begin) {
  if constexpr (count == 1) {
    return load(static_cast<const T*>(sources[0]) + begin);
  } else {
    constexpr int left = static_cast<int>(std::bit_floor(static_cast<unsigned>(count - 1)));
    const Floats sum = add_few<T, left>(sources, begin);
    return sum + add_few<T, count - left>(sources + left, begin);
  }
}

template <class T, class Halves>
inline Floats add_halves(const void* const* sources, std::size_t begin) {
  const Floats sum = add_few<T, Halves::left>(sources, begin);
  if constexpr (Halves::right == 0)
    return sum;
  else
    return sum + add_few<T, Halves::right>(sources + Halves::left, begin);
}

template <std::size_t vectors>
struct Sums {
  Floats of[vectors];
};

/// The sums of `lanes` x `vectors` elements of any number of sources that are below one node of the tree.
template <std::size_t vectors, class T>
[[gnu::noinline]] Sums<vectors> add_many(const OrderedSum& sum, int first, int count, std::size_t begin) {
  return with_halves(count, sum.inner, [&]<class Halves>(Halves) {
    Sums<vectors> total;
    if constexpr (std::is_same_v<Halves, Many>) {
      const int left = on_the_left(count, sum.inner);
      total = add_many<vectors, T>(sum, first, left, begin);
      const Sums<vectors> right = add_many<vectors, T>(sum, first + left, count - left, begin);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < vectors; ++v) total.of[v] += right.of[v];
    } else {
#pragma GCC unroll 8
      for (std::size_t v = 0; v < vectors; ++v)
        total.of[v] = add_halves<T, Halves>(sum.sources + first, begin + v * lanes);
    }
    return total;
  });
}

/// The sums of `lanes` x `vectors` elements of all sources, in registers. Halves: as from with_halves().
template <std::size_t vectors, class T, class Halves>
inline void add_vectors(const OrderedSum& sum, std::size_t begin, Floats (&total)[vectors]) {
  if constexpr (std::is_same_v<Halves, Many>) {
    const Sums<vectors> tree = add_many<vectors, T>(sum, 0, sum.inner * sum.outer, begin);
#pragma GCC unroll 8
    for (std::size_t v = 0; v < vectors; ++v) total[v] = tree.of[v];
  } else {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < vectors; ++v)
      total[v] = add_halves<T, Halves>(sum.sources, begin + v * lanes);
  }
}

/// Of all destinations, how many are written in the usual way: all, where one that is to be written past the
/// caches is not aligned.
inline int cached_count(const OrderedSum& sum) {
  const int cached = sum.destination_count - sum.streamed_count;
  for (int k = cached; k < sum.destination_count; ++k)
    if (reinterpret_cast<std::uintptr_t>(sum.destinations[k]) % 64 != 0) return sum.destination_count;
  return cached;
}

/// `vectors` of them to all destinations: all sources are read before anything is written. `cached`: how many
/// destinations are written in the usual way; the rest past the caches.
template <std::size_t vectors, class T, class Out, class Halves>
inline void sum_vectors(const OrderedSum& sum, int cached, std::size_t begin) {
  Floats total[vectors];
  add_vectors<vectors, T, Halves>(sum, begin, total);
  std::conditional_t<std::is_same_v<Out, float>, Floats, HalfWords> result[vectors];
  round_all(total, result, static_cast<const Out*>(nullptr));
  for (int k = 0; k < cached; ++k)
    std::memcpy(static_cast<Out*>(sum.destinations[k]) + begin, result, sizeof(result));
  if constexpr (vectors > 1)
    for (int k = cached; k < sum.destination_count; ++k)
      write_past(static_cast<Out*>(sum.destinations[k]) + begin, result);
}

/// The sum of element i of `count` sources that are below one node of the tree.
template <class T>
inline float add_element(const OrderedSum& sum, int first, int count, std::size_t i) {
  if (count == 1) return to_float(static_cast<const T*>(sum.sources[first])[i]);
  const int left = on_the_left(count, sum.inner);
  const float total = add_element<T>(sum, first, left, i);
  return total + add_element<T>(sum, first + left, count - left, i);
}
template <class T>
inline float add_element(const OrderedSum& sum, std::size_t i) {
  return add_element<T>(sum, 0, sum.inner * sum.outer, i);
}
template <class T, class Out>
inline void sum_element(const OrderedSum& sum, std::size_t i) {
  const float total = add_element<T>(sum, i);
  for (int k = 0; k < sum.destination_count; ++k) round_to(total, static_cast<Out*>(sum.destinations[k])[i]);
}

/// Sources lie in other processors' caches, up to 200 ns away, which the additions would not cover: so they
/// are asked for so many elements ahead.
template <class T>
constexpr std::size_t elements_ahead = 2048 / sizeof(T);

/// Asks for `step` elements of each source.
template <class T>
inline void prefetch(const OrderedSum& sum, std::size_t begin, std::size_t step) {
  for (int s = 0; s < sum.inner * sum.outer; ++s) {
    const auto* source = static_cast<const std::byte*>(sum.sources[s]) + begin * sizeof(T);
    for (std::size_t line = 0; line < step * sizeof(T); line += 64) __builtin_prefetch(source + line);
  }
}

template <class T, class Out, class Halves>
void sum_all(const OrderedSum& sum) {
  // A few lines at a time: of each source in turn, so that there are loads enough under way. Twice as many
  // bytes, with AVX2, are 20 % slower where fp32 is written past the caches; half as many 20 to 40 % in 16
  // bits.
  constexpr std::size_t bytes_at_once = register_bytes == 64 ? 256 : 128;
  constexpr std::size_t vectors =
      std::min<std::size_t>(8, bytes_at_once / std::max(sizeof(T), sizeof(Out)) / lanes);
  constexpr std::size_t step = vectors * lanes;
  constexpr std::size_t ahead = elements_ahead<T>;
  for (std::size_t at = 0; at < ahead && at + step <= sum.size; at += step) prefetch<T>(sum, at, step);

  const int cached = cached_count(sum);
  std::size_t i = 0;
  for (; i + step <= sum.size; i += step) {
    if (i + ahead < sum.size) prefetch<T>(sum, i + ahead, step);
    sum_vectors<vectors, T, Out, Halves>(sum, cached, i);
  }
  for (; i + lanes <= sum.size; i += lanes) sum_vectors<1, T, Out, Halves>(sum, sum.destination_count, i);
  for (; i < sum.size; ++i) sum_element<T, Out>(sum, i);
  if (cached != sum.destination_count) fence();
}
template <class T, class Out = T>
void ordered_sum_of(const OrderedSum& sum) {
  with_halves(sum.inner * sum.outer, sum.inner, [&]<class Halves>(Halves) { sum_all<T, Out, Halves>(sum); });
}
/// f of what the destinations and the sources are: two of T, or one of both fp32.
template <class F>
void with_types(const OrderedSum& sum, const F& f) {
  const bool wide_in = sum.dtype == DType::fp32;
  switch (wide_in ? sum.out : sum.dtype) {
    case DType::bf16:
      return sum.out == DType::fp32 ? f(bf16(), 0.0F) : wide_in ? f(0.0F, bf16()) : f(bf16(), bf16());
    case DType::fp16:
      return sum.out == DType::fp32 ? f(fp16(), 0.0F) : wide_in ? f(0.0F, fp16()) : f(fp16(), fp16());
    case DType::fp32:
      return f(0.0F, 0.0F);
    case DType::fp8_e4m3:  // never summed
      return;
  }
}

}  // namespace

void ordered_sum(const OrderedSum& sum) {
  with_types(sum, [&]<class T, class Out>(T, Out) { ordered_sum_of<T, Out>(sum); });
}

void stream(void* destination, const void* source, std::size_t lines) {
  for (std::size_t i = 0; i < lines; ++i) {
    Floats line[64 / sizeof(Floats)];
    std::memcpy(line, static_cast<const std::byte*>(source) + i * sizeof(line), sizeof(line));
    write_past(static_cast<std::byte*>(destination) + i * sizeof(line), line);
  }
  fence();
}

}  // namespace mixcomm::cpu::MIXCOMM_ISA
