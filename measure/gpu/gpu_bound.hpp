// What an empty kernel, a hop and bytes take between the ranks' GPUs, measured. Built with CUDA only.
#pragma once

#include <cstddef>

#include "measure/gpu/graph_bench.hpp"

namespace mixcomm::tools {

/// On rank 0's thread; elsewhere 0. Microseconds.
struct GpuBound {
  double floor_us = 0;       ///< an empty kernel behind another
  double overlapped_us = 0;  ///< the same with programmatic dependent launch; 0 where devices have it not
  double hop_us = 0;         ///< a flag from one rank to another
  double gbps = 0;           ///< at which bytes arrive at each rank, when all write to all; 1e9 bytes/s

  [[nodiscard]] double kernel_us() const { return overlapped_us > 0 ? overlapped_us : floor_us; }
};

/// `device`: the calling thread's. Collective. Throws CudaError, Timeout.
[[nodiscard]] GpuBound measure_gpu_bound(GraphBench& bench, int device, int world);

/// What a kernel takes that does nothing but write `bytes_to_each` (16 MiB at most) to each other rank, when
/// all do so; behind another. On rank 0's thread; elsewhere 0. Collective.
[[nodiscard]] double measure_writes_us(GraphBench& bench, std::size_t bytes_to_each);

}  // namespace mixcomm::tools
