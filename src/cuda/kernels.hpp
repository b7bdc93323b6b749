// What the host knows of the kernels: their addresses.
#pragma once

#include "cuda/arguments.hpp"
#include "mixcomm/tensor.hpp"

namespace mixcomm::cuda {

/// How an operation travels: the algorithm's body and its context. `few`: of so few data that each thread has
/// one tile to sum, with all its loads under way at once.
enum class Way : std::uint8_t {
  one_shot_packets,
  two_shot_packets,
  two_shot_barriers_few,
  two_shot_barriers
};
inline constexpr int ways = 4;

[[nodiscard]] constexpr bool in_packets(Way way) {
  return way == Way::one_shot_packets || way == Way::two_shot_packets;
}

/// The most threads of a lane. Two lanes fit an SM's registers, since the next kernel's may come while a peer
/// that shares the device has yet to find room for its own: packets have many addresses ready, and eight
/// loads under way take many registers, too.
[[nodiscard]] constexpr int most_threads_of(Way way) {
  return way == Way::two_shot_barriers ? 512 : 256;
}

/// The kernels of one dtype, each taking one Arguments.
struct KernelTable {
  void* kernel[2][ways];  ///< [gathers][way]
};

template <class T>
KernelTable kernel_table();
template <>
KernelTable kernel_table<bf16>();
template <>
KernelTable kernel_table<fp16>();
template <>
KernelTable kernel_table<float>();

}  // namespace mixcomm::cuda
