// Eight columns of a row as fp32, and back: what the norm works on.
#pragma once

#include "cuda/device.cuh"
#include "epilogue/arithmetic.hpp"

namespace mixcomm::cuda {

/// x as T has it, in fp32 again.
template <class T>
[[nodiscard]] __device__ inline float rounded(float x) {
  constexpr int per_word = Numbers<T>::per_word;
  float value[per_word] = {x};
  Numbers<T>::unpack(Numbers<T>::pack(value), value);
  return value[0];
}

/// `count` words of a row of `width` columns from `column` on, of any alignment; 0 behind its end.
template <class T, int count>
__device__ inline void load_words(const T* row, Place width, Place column, Words<count>& words) {
  constexpr int pack = 4 * Numbers<T>::per_word;
#pragma unroll
  for (int p = 0; p < count / 4; ++p) {
    Words<4> some{};
    if (column + p * pack < width) some = UserTile<const T, 4>(row, width, column + p * pack).load();
#pragma unroll
    for (int w = 0; w < 4; ++w) words.word[p * 4 + w] = some.word[w];
  }
}

/// The elements of words, as fp32.
template <class T, int words, int count>
__device__ inline void to_floats(const Words<words>& from, float (&value)[count]) {
  constexpr int per_word = Numbers<T>::per_word;
  static_assert(count == words * per_word);
#pragma unroll
  for (int w = 0; w < words; ++w) {
    float some[per_word];
    Numbers<T>::unpack(from.word[w], some);
#pragma unroll
    for (int i = 0; i < per_word; ++i) value[w * per_word + i] = some[i];
  }
}

/// Columns [column, column + count) of a row of `width`, of any alignment; 0 behind its end.
template <class T, int count>
__device__ inline void load_floats(const T* row, Place width, Place column, float (&value)[count]) {
  Words<count / Numbers<T>::per_word> words;
  load_words(row, width, column, words);
  to_floats<T>(words, value);
}

template <class T, int count>
__device__ inline void store_floats(T* row, Place width, Place column, const float (&value)[count]) {
  constexpr int per_word = Numbers<T>::per_word;
  constexpr int pack = 4 * per_word;
#pragma unroll
  for (int p = 0; p < count / pack; ++p) {
    Words<4> words{};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      float some[per_word];
#pragma unroll
      for (int i = 0; i < per_word; ++i) some[i] = value[p * pack + w * per_word + i];
      words.word[w] = Numbers<T>::pack(some);
    }
    if (column + p * pack < width) UserTile<T, 4>(row, width, column + p * pack).store(words);
  }
}

/// Two numbers as E4M3, the first one in the low byte: as epilogue::to_fp8().
[[nodiscard]] __device__ inline std::uint32_t fp8_pair(float low, float high) {
#if __CUDA_ARCH__ >= 890
  return ptx::to_fp8_pair(low, high);
#else
  return epilogue::to_fp8(low) | static_cast<std::uint32_t>(epilogue::to_fp8(high)) << 8U;
#endif
}

}  // namespace mixcomm::cuda
