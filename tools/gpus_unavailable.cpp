// Stands in for what measures and describes GPUs in builds without CUDA.
#include "mixcomm/error.hpp"
#include "tools/bench_gpu.hpp"
#include "tools/gpus.hpp"
#include "tools/tune_gpu.hpp"
#include "verify/device.hpp"

namespace mixcomm::tools {

int gpu_count() {
  return 0;
}

void use_gpu(int /*device*/) {}

std::string gpu_uuid(int /*device*/) {
  return "";
}

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

GpuTuner::GpuTuner(const TuneOptions& options, const BackendFlags& backend, const RankFlags& ranks)
    : options_(options), backend_(backend), flags_(ranks), ranks_(options.tp * options.dp) {}

Json GpuTuner::run(Bootstrap& bootstrap) {
  (void)place_on_gpu(bootstrap, backend_, flags_);
  throw Unsupported("--backend cuda: " + verify::why_no_cuda());
}

}  // namespace mixcomm::tools
