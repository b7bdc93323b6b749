#include "tools/command/backend.hpp"

#include <fmt/format.h>

#include <cstdlib>

#include "tools/command/gpus.hpp"
#include "tools/command/ranks.hpp"
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

}  // namespace

void add_backend_flags(Flags& flags, BackendFlags& values) {
  add_named(flags, "--backend", values.kind, backend_from_name, "cpu (default) or cuda");
  flags.yes("--one-gpu", values.one_gpu,
            "CUDA: all ranks on one GPU, as its streams; with --processes, as processes under MPS");
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
  GpuPlace place = gpu_place(bootstrap, device_of(bootstrap.rank(), bootstrap.world(), flags, threads));
  if (flags.one_gpu)
    place.ranks = threads ? RanksOn::streams : RanksOn::processes;  // also where there is one rank
  use_gpu(place.device);
  return place;
}

}  // namespace mixcomm::tools
