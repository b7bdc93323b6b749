// Which backend the ranks of a subcommand use, and which GPU each of them has.
#pragma once

#include <cstdint>
#include <string>

#include "mixcomm/mixcomm.hpp"
#include "tools/options.hpp"

namespace mixcomm::tools {

struct BackendFlags {
  BackendKind kind = BackendKind::cpu;
  bool one_gpu = false;  ///< all ranks on one GPU
  [[nodiscard]] bool cuda() const { return kind == BackendKind::cuda; }
};
/// --backend and --one-gpu.
void add_backend_flags(Flags& flags, BackendFlags& values);

/// Where the ranks of the CUDA backend run.
enum class RanksOn : std::uint8_t {
  streams,    ///< of one GPU, from one process
  processes,  ///< that share a GPU
  gpus,       ///< a GPU for each
};
/// "streams of one GPU", "processes on one GPU", "GPUs"
[[nodiscard]] std::string_view name(RanksOn ranks);

/// To be called before ranks are started. Throws InvalidArgument for flags that do not fit together,
/// Unsupported where CUDA cannot be used. Where ranks are processes of this command, CUDA is not started,
/// because it does not survive a fork: the ranks find out in place_on_gpu().
void check_backend(const BackendFlags& flags, const RankFlags& ranks, int world);

struct GpuPlace {
  int device = 0;
  RanksOn ranks = RanksOn::gpus;
};

/// The calling rank's GPU, which becomes the thread's current one: nothing of a rank is on another one's, not
/// even a context. Rank r has device r; with --one-gpu, or as a process that sees one GPU alone, device 0.
/// Collective. Throws Unsupported where CUDA cannot be used, or where processes share a GPU without
/// MPS; InvalidArgument where there are fewer GPUs than ranks.
[[nodiscard]] GpuPlace place_on_gpu(Bootstrap& bootstrap, const BackendFlags& flags, const RankFlags& ranks);

/// Whether an MPS control daemon is found, with which processes share a GPU at the same time.
[[nodiscard]] bool has_mps();
/// Throws Unsupported unless it is.
void need_mps(int processes);

}  // namespace mixcomm::tools
