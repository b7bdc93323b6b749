// The measuring of `mixcomm bench --backend cuda`.
#pragma once

#include <vector>

#include "measure/driven_ranks.hpp"
#include "tools/bench/bench_rows.hpp"

namespace mixcomm::tools {

/// Measures the rows of one grid. Made before the ranks are started, for one start of them.
class GpuBench {
 public:
  GpuBench(const BenchOptions& options, const GridSize& grid);

  /// What each rank does. Returns {"rows": [...], "wrong": "..."}, filled on rank 0; `wrong`, on every rank
  /// that can know, says which result was not the exact sum. Collective. Throws Unsupported in a build
  /// without CUDA.
  [[nodiscard]] Json run(Bootstrap& bootstrap);

 private:
  Json drive(Bootstrap& bootstrap, const std::vector<GpuRank*>& ranks, RanksOn place);

  const BenchOptions& options_;
  GridSize grid_;
  DrivenRanks ranks_;
};

}  // namespace mixcomm::tools
