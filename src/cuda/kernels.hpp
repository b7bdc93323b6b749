// What the host knows of the kernels: their addresses.
#pragma once

#include "cuda/arguments.hpp"
#include "mixcomm/tensor.hpp"

namespace mixcomm::cuda {

/// How an operation travels: the algorithm's body and its context.
enum class Way : std::uint8_t { one_shot_packets, two_shot_packets, two_shot_barriers };
inline constexpr int ways = 3;

/// The most threads of a lane. One-shot sums over all ranks look for eight packets at once, which takes
/// registers.
[[nodiscard]] constexpr int most_threads_of(Way way, bool gathers) {
  return way == Way::one_shot_packets && !gathers ? 256 : 512;
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
