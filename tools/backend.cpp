#include "tools/backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "tools/gpus.hpp"
#include "tools/ranks.hpp"
#include "verify/device.hpp"

namespace mixcomm::tools {
namespace {

bool are_threads(const RankFlags& ranks) {
  return !ranks.processes && launched_world() == 0;
}

/// Which device rank `rank` has, as far as flags and the number of devices tell.
int device_of(int rank, int world, const BackendFlags& flags, bool threads) {
  if (const std::string why = verify::why_no_cuda(); !why.empty())
    throw Unsupported(
        fmt::format("--backend cuda: {}; use --backend cpu ('mixcomm info' lists what there is)", why));
  const int gpus = gpu_count();
  if (flags.one_gpu) return 0;
  if (gpus >= world) return rank;
  // A launcher may show each process a GPU of its own, or all the same one: which, is seen later.
  if (!threads && gpus == 1) return 0;
  throw InvalidArgument(fmt::format(
      "{} ranks need a GPU each, but there {} {}; use --one-gpu to run them on one GPU, or fewer ranks",
      world, gpus == 1 ? "is" : "are", gpus));
}

/// What the daemon takes orders from.
std::filesystem::path mps_control() {
  const char* set = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
  const std::filesystem::path directory = set != nullptr && *set != '\0' ? set : "/tmp/nvidia-mps";
  return directory / "control";
}

}  // namespace

void add_backend_flags(Flags& flags, BackendFlags& values) {
  add_named(flags, "--backend", values.kind, backend_from_name, "cpu (default) or cuda");
  flags.yes("--one-gpu", values.one_gpu,
            "CUDA: all ranks on one GPU, as its streams; with --processes, as processes under MPS");
}

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

void check_backend(const BackendFlags& flags, const RankFlags& ranks, int world) {
  if (!flags.cuda()) {
    if (flags.one_gpu) throw InvalidArgument("--one-gpu is for --backend cuda");
    return;
  }
  // The streams of ranks that wait for each other must not share a queue. Read when CUDA starts.
  if (flags.one_gpu) setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  if (are_threads(ranks)) (void)device_of(0, world, flags, true);
}

GpuPlace place_on_gpu(Bootstrap& bootstrap, const BackendFlags& flags, const RankFlags& ranks) {
  const bool threads = are_threads(ranks);
  const int world = bootstrap.world();
  GpuPlace place{.device = device_of(bootstrap.rank(), world, flags, threads), .ranks = RanksOn::gpus};
  const auto gpus = bootstrap.exchange("placing ranks on GPUs", gpu_uuid(place.device));
  const auto mine = std::count(gpus.begin(), gpus.end(), gpus[static_cast<std::size_t>(bootstrap.rank())]);
  bool shared = false;
  for (const std::string& gpu : gpus) shared = shared || std::count(gpus.begin(), gpus.end(), gpu) > 1;
  if (flags.one_gpu || shared) place.ranks = threads ? RanksOn::streams : RanksOn::processes;
  if (place.ranks == RanksOn::processes && mine > 1) need_mps(static_cast<int>(mine));
  use_gpu(place.device);
  return place;
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
