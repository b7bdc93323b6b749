// Packs of elements in registers, and their ordered sum.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "mixcomm/tensor.hpp"

namespace MIXCOMM_API mixcomm {
namespace device {

/// `count` 32-bit words of elements, as they lie in memory.
template <int count>
struct Words {
  static constexpr int size = count;
  std::uint32_t word[count];
};

/// Elements of type T in one word, as fp32 and back, rounded to the nearest, ties to even.
template <class T>
struct Numbers;

template <>
struct Numbers<float> {
  static constexpr int per_word = 1;
  __device__ static void unpack(std::uint32_t word, float (&value)[1]) { value[0] = __uint_as_float(word); }
  __device__ static std::uint32_t pack(const float (&value)[1]) { return __float_as_uint(value[0]); }
};

template <>
struct Numbers<bf16> {
  static constexpr int per_word = 2;
  __device__ static void unpack(std::uint32_t word, float (&value)[2]) {
    value[0] = __uint_as_float(word << 16U);
    value[1] = __uint_as_float(word & 0xFFFF0000U);
  }
  __device__ static std::uint32_t pack(const float (&value)[2]) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(value[0], value[1]);
    std::uint32_t word;
    memcpy(&word, &pair, sizeof(word));
    return word;
  }
};

template <>
struct Numbers<fp16> {
  static constexpr int per_word = 2;
  __device__ static void unpack(std::uint32_t word, float (&value)[2]) {
    __half2 pair;
    memcpy(&pair, &word, sizeof(pair));
    const float2 both = __half22float2(pair);
    value[0] = both.x;
    value[1] = both.y;
  }
  __device__ static std::uint32_t pack(const float (&value)[2]) {
    const __half2 pair = __floats2half2_rn(value[0], value[1]);
    std::uint32_t word;
    memcpy(&word, &pair, sizeof(word));
    return word;
  }
};

/// Adds sources in the order of a SumOrder: over `inner` of them, then (`nested`) over those partial sums.
/// Sums begin with -0.0, which added to anything changes nothing.
template <class T, int words, bool nested>
class OrderedSum {
  static constexpr int per_word = Numbers<T>::per_word;
  static constexpr int elements = words * per_word;

 public:
  __device__ explicit OrderedSum(int inner) : inner_(inner) {
#pragma unroll
    for (int i = 0; i < elements; ++i) partial_[i] = total_[i] = -0.0F;
  }

  __device__ void add(const Words<words>& source) {
#pragma unroll
    for (int w = 0; w < words; ++w) {
      float value[per_word];
      Numbers<T>::unpack(source.word[w], value);
#pragma unroll
      for (int i = 0; i < per_word; ++i) partial_[w * per_word + i] += value[i];
    }
    if constexpr (nested) {
      if (++position_ != inner_) return;
      position_ = 0;
#pragma unroll
      for (int i = 0; i < elements; ++i) {
        total_[i] += partial_[i];
        partial_[i] = -0.0F;
      }
    }
  }

  /// One more, behind the sum of all: the residual.
  __device__ void add_last(const Words<words>& source) {
#pragma unroll
    for (int w = 0; w < words; ++w) {
      float value[per_word];
      Numbers<T>::unpack(source.word[w], value);
#pragma unroll
      for (int i = 0; i < per_word; ++i) (nested ? total_ : partial_)[w * per_word + i] += value[i];
    }
  }

  __device__ Words<words> rounded() const {
    Words<words> result;
#pragma unroll
    for (int w = 0; w < words; ++w) {
      float value[per_word];
#pragma unroll
      for (int i = 0; i < per_word; ++i) value[i] = (nested ? total_ : partial_)[w * per_word + i];
      result.word[w] = Numbers<T>::pack(value);
    }
    return result;
  }

 private:
  int inner_;
  int position_ = 0;
  float partial_[elements];
  float total_[elements];
};

}  // namespace device
}  // namespace mixcomm
