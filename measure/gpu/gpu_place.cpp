#include "measure/gpu/gpu_place.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include "bootstrap/place.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::tools {
namespace {

/// What the daemon takes orders from.
std::filesystem::path mps_control() {
  const char* set = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
  const std::filesystem::path directory = set != nullptr && *set != '\0' ? set : "/tmp/nvidia-mps";
  return directory / "control";
}

}  // namespace

std::string_view name(RanksOn ranks) {
  switch (ranks) {
    case RanksOn::streams:
      return "streams of one GPU";
    case RanksOn::processes:
      return "processes on one GPU";
    case RanksOn::gpus:
      break;
  }
  return "GPUs";
}

GpuPlace gpu_place(Bootstrap& bootstrap, int device) {
  const auto mine = static_cast<std::size_t>(bootstrap.rank());
  const auto gpus = bootstrap.exchange("placing ranks on GPUs", gpu_uuid(device));
  const auto processes = bootstrap.exchange("finding ranks that are threads", process_identity());
  bool shared = false;
  bool by_threads = false;
  for (std::size_t a = 0; a < gpus.size(); ++a)
    for (std::size_t b = 0; b < a; ++b) {
      shared = shared || gpus[a] == gpus[b];
      by_threads = by_threads || (gpus[a] == gpus[b] && processes[a] == processes[b]);
    }
  if (!shared) return {device, RanksOn::gpus};
  if (by_threads) {
    const auto same = [](const std::vector<std::string>& all) {
      return std::count(all.begin(), all.end(), all[0]) == static_cast<std::ptrdiff_t>(all.size());
    };
    if (!same(gpus) || !same(processes))
      throw Unsupported(
          "some ranks are threads of one process that share a GPU, and others are elsewhere: give each rank "
          "a GPU, or "
          "have all of them as threads of one process on one");
    return {device, RanksOn::streams};
  }
  if (const auto here = std::count(gpus.begin(), gpus.end(), gpus[mine]); here > 1)
    need_mps(static_cast<int>(here));
  return {device, RanksOn::processes};
}

bool has_mps() {
  std::error_code ignored;
  return std::filesystem::exists(mps_control(), ignored);
}

void need_mps(int processes) {
  if (has_mps()) return;
  throw Unsupported(fmt::format(
      "{} processes share one GPU, but no MPS control daemon is found (there is no {}; "
      "CUDA_MPS_PIPE_DIRECTORY names another place). Without it they run in turns of milliseconds, in "
      "which each waits for the others. Start it with 'nvidia-cuda-mps-control -d', or use --one-gpu "
      "without --processes",
      processes, mps_control().string()));
}

}  // namespace mixcomm::tools
