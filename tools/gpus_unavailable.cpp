// Stands in for what describes GPUs, and for the command's benchmarks of them, in builds without CUDA.
#include "mixcomm/error.hpp"
#include "tools/bench_gpu.hpp"
#include "tools/gpus.hpp"
#include "verify/device.hpp"

namespace mixcomm::tools {

Json gpus() {
  return {{"available", false}, {"why", verify::why_no_cuda()}};
}

std::string gpus_text(const Json& gpus) {
  return "not available: " + gpus["why"].get<std::string>() + "\n";
}

Json measured_gpus() {
  return nullptr;
}

GpuBench::GpuBench(const BenchOptions& options, const GridSize& grid)
    : options_(options), grid_(grid), ranks_(grid.world()) {}

Json GpuBench::run(Bootstrap& bootstrap) {
  (void)place_on_gpu(bootstrap, options_.backend, options_.ranks);
  throw Unsupported("--backend cuda: " + verify::why_no_cuda());
}

}  // namespace mixcomm::tools
