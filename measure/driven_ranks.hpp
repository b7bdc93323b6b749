// Which thread drives which ranks in a measurement on GPUs.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <vector>

#include "measure/gpu/gpu_place.hpp"
#include "measure/json.hpp"

namespace mixcomm::tools {

class GpuRank;

/// Ranks that are streams of one GPU are driven by rank 0's thread, since one graph holds the calls of them
/// all; others by a thread each. Made before the ranks are started, for one start of them.
class DrivenRanks {
 public:
  explicit DrivenRanks(int world);

  /// The same one for all ranks, where they are threads of one process. Collective. Throws Error where rank 0
  /// has given up meanwhile.
  [[nodiscard]] static std::shared_ptr<DrivenRanks> shared(Bootstrap& bootstrap);

  /// Calls `drive` with the ranks that the calling thread drives, and returns what it returns; null for a
  /// rank that another thread drives, when that one is done with it. Collective. All of those ranks throw
  /// what `drive` throws.
  [[nodiscard]] Json run(Bootstrap& bootstrap, GpuRank& mine, RanksOn place,
                         const std::function<Json(const std::vector<GpuRank*>&)>& drive);

 private:
  std::vector<GpuRank*> parts_;
  std::promise<void> driven_;  ///< when the others may take their parts away
  std::shared_future<void> wait_until_driven_;
};

}  // namespace mixcomm::tools
