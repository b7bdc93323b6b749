// Stands in for what describes GPUs in builds without CUDA.
#include "tools/command/gpus.hpp"
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

}  // namespace mixcomm::tools
