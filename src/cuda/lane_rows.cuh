// The blocks of one lane, and where their sizes come from: the host, or row counts in device memory.
#pragma once

#include "cuda/arguments.hpp"
#include "cuda/device.cuh"
#include "cuda/tiles.cuh"

namespace mixcomm::cuda {

/// In shared memory; all threads of the lane call all of this together.
struct LaneRows {
  LaneBlocks blocks;

  /// The blocks that the host has cut.
  __device__ bool take(const Arguments& a) {
    if (threadIdx.x <= a.grid.dp.size) blocks.take(a.blocks, static_cast<int>(threadIdx.x), piece_of_pass(0));
    __syncthreads();
    return true;
  }

  /// The blocks by the row counts as they are now, which an earlier kernel may be about to change: so a
  /// kernel can make ready before that one is complete, and counts that stay as they were cost nothing. False
  /// if they are not what the caller promised.
  __device__ bool guess(const Arguments& a) {
    if (threadIdx.x < a.grid.dp.size) seen[threadIdx.x] = count(a, static_cast<int>(threadIdx.x));
    __syncthreads();
    if (threadIdx.x == 0) fit = assign(a);
    __syncthreads();
    return fit;
  }
  /// After the previous kernel: whether the counts are what they were. All threads find the same.
  [[nodiscard]] __device__ bool guessed_right(const Arguments& a) const {
    const int d = static_cast<int>(threadIdx.x % 32);
    const bool other = d < a.grid.dp.size && count(a, d) != seen[d];
    return !__any_sync(~0U, other);
  }
  /// The blocks by the row counts. False if they are not what the caller promised.
  __device__ bool read(const Arguments& a) {
    __syncthreads();  // all have compared
    return guess(a);
  }

  /// Covers the lane's piece of a pass. By one thread.
  __device__ void cover(int pass) { blocks.cover(piece_of_pass(pass)); }

  std::int64_t seen[most_ranks];
  bool fit;

 private:
  /// The pieces of all passes of all lanes: lane l takes piece l, l + lanes, ...
  [[nodiscard]] __device__ static int piece_of_pass(int pass) {
    return static_cast<int>(pass * gridDim.x + blockIdx.x);
  }
  [[nodiscard]] __device__ static std::int64_t count(const Arguments& a, int d) {
    return static_cast<std::int64_t>(ptx::load_number(a.device_rows + d));
  }
  __device__ bool assign(const Arguments& a) {
    std::uint64_t total = 0;
    bool good = true;
    blocks.assign(a.grid.dp.size, [&](int d) {
      const std::int64_t rows = seen[d];
      good = good && rows >= 0 && rows <= a.most_rows_each;
      total += static_cast<std::uint64_t>(rows);
      return good ? static_cast<std::size_t>(rows) * a.hidden : std::size_t{0};
    });
    blocks.cut(static_cast<int>(gridDim.x * a.passes), a.blocks.step());
    blocks.cover(piece_of_pass(0));
    return good && total <= a.most_rows;
  }
};

}  // namespace mixcomm::cuda
