// A thread's access to the caller's buffers: a pack at once where it is there and aligned, else element by
// element.
#pragma once

#include "mixcomm/device/numbers.cuh"
#include "mixcomm/tensor.hpp"

namespace MIXCOMM_API mixcomm {
namespace device {

/// A place among elements that are covered at once, in elements: fewer than 2^31 (the host sees to it).
using Place = std::uint32_t;

__device__ inline std::uint32_t bits_of(float x) {
  return __float_as_uint(x);
}
__device__ inline std::uint32_t bits_of(bf16 x) {
  return x.bits;
}
__device__ inline std::uint32_t bits_of(fp16 x) {
  return x.bits;
}
__device__ inline std::uint32_t bits_of(fp8_e4m3 x) {
  return x.bits;
}
__device__ inline void set_bits(float& x, std::uint32_t bits) {
  x = __uint_as_float(bits);
}
__device__ inline void set_bits(bf16& x, std::uint32_t bits) {
  x.bits = static_cast<std::uint16_t>(bits);
}
__device__ inline void set_bits(fp16& x, std::uint32_t bits) {
  x.bits = static_cast<std::uint16_t>(bits);
}
__device__ inline void set_bits(fp8_e4m3& x, std::uint32_t bits) {
  x.bits = static_cast<std::uint8_t>(bits);
}

/// The first `count` elements at `from`, of at most 16 bytes; 0 behind them. A loop, since what is rare
/// should be small.
template <class T>
__device__ inline void load_elements(const T* from, Place count, std::uint32_t* words, int size) {
  constexpr int bits = sizeof(T) * 8;
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  MIXCOMM_ROLLED
  for (Place k = count; k-- > 0;) {
    high = high << bits | low >> (64 - bits);
    low = low << bits | bits_of(from[k]);
  }
  words[0] = static_cast<std::uint32_t>(low), words[1] = static_cast<std::uint32_t>(low >> 32U);
  if (size == 4)
    words[2] = static_cast<std::uint32_t>(high), words[3] = static_cast<std::uint32_t>(high >> 32U);
}
template <class T>
__device__ inline void store_elements(T* to, Place count, const std::uint32_t* words, int size) {
  constexpr int bits = sizeof(T) * 8;
  std::uint64_t low = words[0] | static_cast<std::uint64_t>(words[1]) << 32U;
  std::uint64_t high = size == 4 ? words[2] | static_cast<std::uint64_t>(words[3]) << 32U : 0;
  MIXCOMM_ROLLED
  for (Place k = 0; k < count; ++k) {
    set_bits(to[k], static_cast<std::uint32_t>(low));
    low = low >> bits | high << (64 - bits);
    high >>= bits;
  }
}

/// A pack of 16 or 8 bytes, as loaded and stored at once.
__device__ inline void load_pack(const void* from, std::uint32_t (&words)[4]) {
  const uint4 all = *static_cast<const uint4*>(from);
  words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
}
__device__ inline void load_pack(const void* from, std::uint32_t (&words)[2]) {
  const uint2 all = *static_cast<const uint2*>(from);
  words[0] = all.x, words[1] = all.y;
}
__device__ inline void store_pack(void* to, const std::uint32_t (&words)[4]) {
  *static_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}
__device__ inline void store_pack(void* to, const std::uint32_t (&words)[2]) {
  *static_cast<uint2*>(to) = make_uint2(words[0], words[1]);
}

/// `words` words of the caller's buffer, of any alignment, which may end before.
template <class T, int words>
class UserTile {
  static constexpr Place elements = words * 4 / sizeof(T);

 public:
  UserTile() = default;
  /// From element i of a block on.
  __device__ UserTile(T* block, std::size_t block_size, Place i)
      : begin_(block + i), size_(static_cast<Place>(block_size) - i) {
    if (size_ > elements) size_ = elements;
    if (size_ == elements && reinterpret_cast<std::uintptr_t>(begin_) % (words * 4) == 0) size_ = whole;
  }

  __device__ Words<words> load() const {
    Words<words> result;
    if (size_ == whole) [[likely]]
      load_pack(begin_, result.word);
    else
      load_elements(begin_, size_, result.word, words);
    return result;
  }
  __device__ void store(const Words<words>& value) const {
    if (size_ == whole) [[likely]]
      store_pack(begin_, value.word);
    else
      store_elements(begin_, size_, value.word, words);
  }

 private:
  static constexpr Place whole = ~Place{0};  ///< all of it is there, and aligned
  T* begin_;
  Place size_;  ///< of what is there
};

}  // namespace device
}  // namespace mixcomm
