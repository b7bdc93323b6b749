// The blocks of one lane where they are of few rows: dealt so that each lane has some.
#pragma once

#include "cuda/lane_rows.cuh"

namespace mixcomm::cuda {

/// As LaneRows, but each block's pieces begin with the lane behind the last one that the block before it
/// needs. In shared memory; all threads of the lane call all of this together, but for cover().
struct SpreadRows : LaneRows {
  __device__ bool take(const Arguments& a) { return spread(a, LaneRows::take(a)); }
  __device__ bool guess(const Arguments& a) { return spread(a, LaneRows::guess(a)); }
  __device__ bool read(const Arguments& a) { return spread(a, LaneRows::read(a)); }

  /// Covers the lane's pieces of a pass. By one thread.
  __device__ void cover(const Arguments& a, int pass) {
    const std::uint32_t pieces = gridDim.x * a.passes;
    const std::uint32_t piece = static_cast<std::uint32_t>(pass) * gridDim.x + blockIdx.x;
    blocks.cover_each([&](int d) {
      const std::uint32_t first = static_cast<std::uint32_t>(blocks.offset(d)) % pieces;
      return static_cast<int>(piece >= first ? piece - first : piece + pieces - first);
    });
  }

 private:
  __device__ bool spread(const Arguments& a, bool known) {
    if (threadIdx.x == 0) cover(a, 0);
    __syncthreads();
    return known;
  }
};

}  // namespace mixcomm::cuda
