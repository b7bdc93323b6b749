// What an empty kernel, a hop and bytes take between the ranks' GPUs, measured. Built with CUDA only.
#pragma once

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

}  // namespace mixcomm::tools
