// Stands in for what measures GPUs in builds without CUDA.
#include "measure/gpu/gpu_place.hpp"
#include "measure/gpu/tune_gpu.hpp"
#include "mixcomm/error.hpp"
#include "verify/device.hpp"

namespace mixcomm::tools {

int gpu_count() {
  return 0;
}

void use_gpu(int /*device*/) {}

std::string gpu_uuid(int /*device*/) {
  return "";
}

int current_gpu() {
  return 0;
}

TuningTable measure_gpu_tuning(Bootstrap& /*bootstrap*/, const TuneOptions& options,
                               const GpuPlace& /*place*/, const TuneProgress& /*progress*/) {
  check_tunable(options);
  throw Unsupported("backend cuda: " + verify::why_no_cuda());
}

}  // namespace mixcomm::tools
