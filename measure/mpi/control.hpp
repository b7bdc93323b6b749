// What `mixcomm bench` and the ranks of an MPI job that it measures share: an order, and what came of it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "mixcomm/communicator.hpp"

namespace mixcomm::tools::mpi {

/// Calls of a chunk at most: as many latencies have room.
inline constexpr std::uint32_t most_calls = 64;

/// Some calls of one operation, one after the other.
struct Order {
  Op op = Op::all_reduce;
  std::uint32_t calls = 0;
  std::uint64_t hidden = 0;
  std::array<std::uint64_t, max_ranks> rows{};  ///< by DP rank
  bool check = false;                           ///< compare the last result with the exact sums
};

/// The head of memory that the bench makes, in zeroes; the ranks' meeting lies behind it. Both sides are
/// built from this header.
struct Control {
  // Written by the bench before the job is started:
  std::uint64_t bytes;       ///< of all of this memory
  std::uint64_t most_bytes;  ///< of the largest tensor
  std::int32_t tp;
  std::int32_t dp;
  std::int32_t owner;  ///< process of the bench: without it, the job ends
  std::int32_t timeout_ms;
  std::int32_t threads;  ///< of each rank
  DType dtype;
  bool binds;  ///< each rank to a processor for each of its threads

  Order order;
  alignas(128) std::atomic<std::uint32_t> ordered;  ///< orders given; the job sleeps on it
  alignas(
      128) std::atomic<std::uint32_t> finished;     ///< orders carried out, or failed; the bench sleeps on it
  alignas(128) std::atomic<std::uint32_t> arrived;  ///< ranks that have carried out all orders, times orders
  std::atomic<bool> ends;                           ///< the job is to end
  std::atomic<bool> failed;
  std::array<char, 512> failure;  ///< by the first rank to fail, behind `failed`
};

}  // namespace mixcomm::tools::mpi
