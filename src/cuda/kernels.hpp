// What the host knows of the kernels: their addresses.
#pragma once

#include "cuda/arguments.hpp"
#include "mixcomm/tensor.hpp"

namespace mixcomm::cuda {

/// How an operation travels: the algorithm's body, its context, and how much a thread has under way. `wide`:
/// two lines at a time. `few`: of so few data that each thread has one tile to sum, with all its loads under
/// way.
enum class Way : std::uint8_t {
  one_shot_packets,
  two_shot_packets,
  one_shot_lines,
  one_shot_lines_wide,
  two_shot_lines,
  two_shot_lines_wide,
  two_shot_barriers_few,
  two_shot_barriers
};
inline constexpr int ways = 8;

[[nodiscard]] constexpr bool is_one_shot(Way way) {
  return way == Way::one_shot_packets || way == Way::one_shot_lines || way == Way::one_shot_lines_wide;
}
[[nodiscard]] constexpr bool over_lines(Way way) {
  return way == Way::one_shot_lines || way == Way::one_shot_lines_wide || way == Way::two_shot_lines ||
         way == Way::two_shot_lines_wide;
}
[[nodiscard]] constexpr bool over_packets(Way way) {
  return way == Way::one_shot_packets || way == Way::two_shot_packets;
}
[[nodiscard]] constexpr bool over_barriers(Way way) {
  return way == Way::two_shot_barriers_few || way == Way::two_shot_barriers;
}
/// Whether a tile is two lines.
[[nodiscard]] constexpr bool is_wide(Way way) {
  return way == Way::one_shot_lines_wide || way == Way::two_shot_lines_wide;
}
/// Whether what scatters goes this way as well as what gathers: wide sums over all ranks take too many
/// registers.
[[nodiscard]] constexpr bool has_dual(Way way) {
  return !is_wide(way);
}

/// The most threads of a lane. Of 256, two lanes fit an SM's registers: the next kernel's may come while a
/// peer that shares the device has yet to find room for its own. Packets have many addresses ready, and eight
/// loads under way take many registers, too.
[[nodiscard]] constexpr int most_threads_of(Way way) {
  return way == Way::two_shot_barriers || over_lines(way) ? 512 : 256;
}

/// How many lines of a sum are under way at a time, in a batch, or pairs of lines.
[[nodiscard]] constexpr int lines_of_batch(Way way) {
  return is_wide(way) ? 2 : 4;
}
/// Whether a thread has no registers for two sums that wait for their neighbours (OrderedSum). Of more than
/// two batches it keeps one in shared memory then.
[[nodiscard]] constexpr bool parks_sums(Body body, Wire wire, int batch) {
  return wire == Wire::lines && (batch == 2 || body == Body::scatter);
}
/// Sums of wide tiles are of so many sources at most.
inline constexpr int most_wide_sources = 8;

/// The kernels of one dtype, each taking one Arguments.
struct KernelTable {
  void* kernel[2][ways] = {};  ///< [body][way]; null where there is none

  [[nodiscard]] void*& of(Body body, Way way) {
    return kernel[static_cast<int>(body)][static_cast<int>(way)];
  }
  [[nodiscard]] void* of(Body body, Way way) const {
    return kernel[static_cast<int>(body)][static_cast<int>(way)];
  }
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
