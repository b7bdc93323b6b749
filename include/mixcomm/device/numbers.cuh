// Packs of elements in registers, and their ordered sum.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "mixcomm/tensor.hpp"

namespace MIXCOMM_API mixcomm {
namespace device {

/// `count` 32-bit words of elements, as they lie in memory.
template <int count>
struct Words {
  static constexpr int size = count;
  std::uint32_t word[count];
};

/// Elements of a source that is not there, in one word: -0.0, which changes no sum.
template <class T>
inline constexpr std::uint32_t nothing_of = sizeof(T) == 4 ? 0x80000000U : 0x80008000U;

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

/// Where sums are kept that OrderedSum parks.
extern __shared__ float4 parked_sums[];

/// Adds sources in the order of a SumOrder: the tree of neighbours, over `inner` of them, then (`nested`)
/// over what came of these. They come in batches of neighbours, as many as are under way at a time, and each
/// batch is a subtree. What came of earlier ones waits for its neighbour, the latest in front, in `places`:
/// of four batches two sums wait at most. So they do of 16 sources in batches of four or more, if groups are
/// no subtrees of all (`inner` is no power of two). `parks`: the second place is in shared memory, where
/// each thread has 4 bytes for each of its elements if there are more than two batches.
template <class T, int words, bool nested, int places, bool parks = false>
class OrderedSum {
  static_assert(places <= 2 && !(parks && places != 2));
  static constexpr int per_word = Numbers<T>::per_word;
  static constexpr int elements = words * per_word;
  struct Values {
    float each[elements];
  };

 public:
  __device__ OrderedSum(int inner, int sources) : sources_(sources) {
    if constexpr (nested) groups_ = {(inner & (inner - 1)) == 0 ? sources : inner, 0};
  }

  /// How many sources, from `first` on, are the next batch.
  [[nodiscard]] __device__ int next(int first, int most) const {
    int left = sources_ - first;
    if constexpr (nested)
      if (groups_.end() - first < left) left = groups_.end() - first;
    return left < most ? left : most;
  }

  /// The next batch, of `count` = next(first, batch) sources; source(k) is the k-th of them.
  template <int batch, class Source>
  __device__ void add(int first, int count, const Source& source) {
    const int merged = merged_by<batch>(first, first + count);
    const bool waits = places > 1 && merged == 0 && first > 0;
    if constexpr (batch == 2) {
      if (waits) put(newer_);
      add_two(merged == 0, count > 1, source);
      if (places > 1 && merged > 1) newer_ = added(older(), newer_);
    } else {
      Values sum = subtree<batch, 0>(count, source);
      if (places > 0 && merged > 0) sum = added(newer_, sum);
      if (places > 1 && merged > 1) sum = added(older(), sum);
      if (waits) put(newer_);
      newer_ = sum;
    }
  }

  /// One more, behind the sum of all: the residual.
  __device__ void add_last(const Words<words>& source) {
    for_values(source, [&](int i, float value) { newer_.each[i] += value; });
  }

  __device__ Words<words> rounded() const {
    Words<words> result;
#pragma unroll
    for (int w = 0; w < words; ++w) {
      float value[per_word];
#pragma unroll
      for (int i = 0; i < per_word; ++i) value[i] = newer_.each[w * per_word + i];
      result.word[w] = Numbers<T>::pack(value);
    }
    return result;
  }

 private:
  /// How many sums that wait have got their right neighbour behind the batch [first, next). Among n things of
  /// one size, as many sums wait as n has ones; one more completes as many as n ends with.
  template <int batch>
  [[nodiscard]] __device__ int merged_by(int first, int next) {
    if constexpr (places == 0) return 0;
    if constexpr (!nested) {
      const int batches = first / batch;
      return next == sources_ ? __popc(batches) : trailing_ones(batches);
    } else {
      const int batches = (first - groups_.begin()) / batch;
      if (next == sources_) return __popc(groups_.before) + __popc(batches);
      if (next == groups_.end()) return __popc(batches) + trailing_ones(groups_.before++);
      return trailing_ones(batches);
    }
  }
  [[nodiscard]] __device__ static int trailing_ones(int n) {
    return __ffs(~n) - 1;
  }

  __device__ static float4& parked(int i) {
    return parked_sums[i / 4 * blockDim.x + threadIdx.x];
  }
  /// The second place.
  __device__ void put(const Values& sum) {
    if constexpr (parks) {
#pragma unroll
      for (int i = 0; i < elements; i += 4)
        parked(i) = make_float4(sum.each[i], sum.each[i + 1], sum.each[i + 2], sum.each[i + 3]);
    } else {
      older_ = sum;
    }
  }
  [[nodiscard]] __device__ Values older() const {
    if constexpr (parks) {
      Values sum;
#pragma unroll
      for (int i = 0; i < elements; i += 4) {
        const float4 four = parked(i);
        sum.each[i] = four.x;
        sum.each[i + 1] = four.y;
        sum.each[i + 2] = four.z;
        sum.each[i + 3] = four.w;
      }
      return sum;
    } else {
      return older_;
    }
  }

  /// A source that is not there.
  [[nodiscard]] __device__ static Words<words> nothing() {
    Words<words> none;
#pragma unroll
    for (int w = 0; w < words; ++w) none.word[w] = nothing_of<T>;
    return none;
  }
  template <class Take>
  __device__ static void for_values(const Words<words>& source, const Take& take) {
#pragma unroll
    for (int w = 0; w < words; ++w) {
      float value[per_word];
      Numbers<T>::unpack(source.word[w], value);
#pragma unroll
      for (int i = 0; i < per_word; ++i) take(w * per_word + i, value[i]);
    }
  }
  [[nodiscard]] __device__ static Values added(const Values& left, const Values& right) {
    Values sum;
#pragma unroll
    for (int i = 0; i < elements; ++i) sum.each[i] = left.each[i] + right.each[i];
    return sum;
  }
  /// newer_ and the sum of two sources, word by word: so that no more registers are in use than for newer_
  /// and what was loaded. `anew`: without newer_; `both`: there are two.
  template <class Source>
  __device__ void add_two(bool anew, bool both, const Source& source) {
    if (anew)
#pragma unroll
      for (int i = 0; i < elements; ++i) newer_.each[i] = -0.0F;  // added to anything, it changes nothing
#pragma unroll
    for (int w = 0; w < words; ++w) {
      float a[per_word];
      float b[per_word];
      Numbers<T>::unpack(source(0).word[w], a);
      Numbers<T>::unpack(both ? source(1).word[w] : nothing_of<T>, b);
#pragma unroll
      for (int i = 0; i < per_word; ++i) newer_.each[w * per_word + i] += a[i] + b[i];
    }
  }
  /// Of the `size` sources from `first` on, as far as there are any: of the first two, one at least.
  template <int size, int first, class Source>
  [[nodiscard]] __device__ static Values subtree(int count, const Source& source) {
    Values sum;
    if constexpr (size == 2) {
      for_values(source(first), [&](int i, float value) { sum.each[i] = value; });
      for_values(count > first + 1 ? source(first + 1) : nothing(),
                 [&](int i, float value) { sum.each[i] += value; });
    } else {
      sum = subtree<size / 2, first>(count, source);
      if (count > first + size / 2) sum = added(sum, subtree<size / 2, first + size / 2>(count, source));
    }
    return sum;
  }

  /// Sources that are a tree of their own, one group after the other. Groups of 2^k are subtrees of a tree
  /// over all sources: then all of them are one group.
  struct Groups {
    int size;
    int before;  ///< groups that are complete
    [[nodiscard]] __device__ int begin() const { return before * size; }
    [[nodiscard]] __device__ int end() const { return begin() + size; }
  };
  struct Nothing {};
  int sources_;
  [[no_unique_address]] std::conditional_t<nested, Groups, Nothing> groups_;
  Values older_;
  Values newer_;
};

}  // namespace device
}  // namespace mixcomm
