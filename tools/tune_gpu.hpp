// The measuring of `mixcomm tune --backend cuda`.
#pragma once

#include <vector>

#include "tools/backend.hpp"
#include "tools/driven_ranks.hpp"
#include "tools/measure_tuning.hpp"

namespace mixcomm::tools {

/// Measures each operation with each algorithm, protocol and launch shape that may pay, as CUDA graphs of
/// many calls, and checks what they compute. Made before the ranks are started, for one start of them.
class GpuTuner {
 public:
  GpuTuner(const TuneOptions& options, const BackendFlags& backend, const RankFlags& ranks);

  /// What each rank does. Returns {"table": "..."} on rank 0. Sizes in steps of four are measured, then those
  /// in between as far as the time goes. Collective. Throws Unsupported in a build without CUDA, Error if a
  /// result is wrong, and what operations throw.
  [[nodiscard]] Json run(Bootstrap& bootstrap);

 private:
  Json measure(Bootstrap& bootstrap, const std::vector<GpuRank*>& ranks, RanksOn place);

  const TuneOptions& options_;
  const BackendFlags& backend_;
  const RankFlags& flags_;
  DrivenRanks ranks_;
};

}  // namespace mixcomm::tools
