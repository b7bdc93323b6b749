// Stands in for benchmarks of GPUs in builds without CUDA.
#include "mixcomm/error.hpp"
#include "tools/bench/bench_gpu.hpp"
#include "verify/device.hpp"

namespace mixcomm::tools {

GpuBench::GpuBench(const BenchOptions& options, const GridSize& grid)
    : options_(options), grid_(grid), ranks_(grid.world()) {}

Json GpuBench::run(Bootstrap& bootstrap) {
  (void)place_on_gpu(bootstrap, options_.backend, options_.ranks);
  throw Unsupported("--backend cuda: " + verify::why_no_cuda());
}

}  // namespace mixcomm::tools
