// The measuring of `mixcomm bench --backend cuda`.
#pragma once

#include <future>
#include <vector>

#include "tools/bench_rows.hpp"

namespace mixcomm::tools {

class GpuRank;

/// Measures the rows of one grid. Made before the ranks are started, for one start of them.
class GpuBench {
 public:
  GpuBench(const BenchOptions& options, const GridSize& grid);

  /// What each rank does. Returns {"rows": [...], "wrong": "..."}, filled on rank 0; `wrong`, on every rank
  /// that can know, says which result was not the exact sum. Collective. Throws Unsupported in a build
  /// without CUDA.
  [[nodiscard]] Json run(Bootstrap& bootstrap);

 private:
  Json drive(Bootstrap& bootstrap, std::vector<GpuRank*> ranks, RanksOn place);

  const BenchOptions& options_;
  GridSize grid_;
  std::vector<GpuRank*> parts_;  ///< of ranks that are streams: rank 0's thread drives them all
  std::promise<void> driven_;    ///< when the others may take their parts away
  std::shared_future<void> wait_until_driven_;
};

}  // namespace mixcomm::tools
