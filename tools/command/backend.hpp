// Which backend the ranks of a subcommand use, and which GPU each of them has.
#pragma once

#include <string>

#include "measure/gpu/gpu_place.hpp"
#include "mixcomm/mixcomm.hpp"
#include "tools/command/options.hpp"

namespace mixcomm::tools {

struct BackendFlags {
  BackendKind kind = BackendKind::cpu;
  bool one_gpu = false;  ///< all ranks on one GPU
  [[nodiscard]] bool cuda() const { return kind == BackendKind::cuda; }
};
/// --backend and --one-gpu.
void add_backend_flags(Flags& flags, BackendFlags& values);

/// To be called before ranks are started. Throws InvalidArgument for flags that do not fit together,
/// Unsupported where CUDA cannot be used. Where ranks are processes of this command, CUDA is not started,
/// because it does not survive a fork: the ranks find out in place_on_gpu().
void check_backend(const BackendFlags& flags, const RankFlags& ranks, int world);

/// The calling rank's GPU, which becomes the thread's current one: nothing of a rank is on another one's, not
/// even a context. Rank r has device r; with --one-gpu, or as a process that sees one GPU alone, device 0.
/// Collective. Throws Unsupported where CUDA cannot be used, or where processes share a GPU without
/// MPS; InvalidArgument where there are fewer GPUs than ranks.
[[nodiscard]] GpuPlace place_on_gpu(Bootstrap& bootstrap, const BackendFlags& flags, const RankFlags& ranks);

}  // namespace mixcomm::tools
