// What the machine itself needs for the bytes of an operation: the yardstick beside the measured times.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>

#include "measure/bench_cells.hpp"
#include "measure/meeting.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm::tools {

/// memcpy with up to so many threads of the calling one's team.
void copy_with(int threads, std::byte* to, const std::byte* from, std::size_t bytes);

/// All ranks meet once (their flags cross), then each copies as many bytes as it must receive (wire_bytes)
/// out of what the others have just written, and its share of the tensor with all rows out of what it has
/// written itself. No sums, no staging, and no second meeting, so no correct operation takes less.
class MachineBound {
 public:
  /// Collective. `most_bytes`: of the largest tensor. Copies with up to so many threads a rank.
  MachineBound(Bootstrap& bootstrap, std::size_t most_bytes, Milliseconds timeout, int threads);

  /// Writes this rank's part anew, as callers write inputs.
  void write(const std::byte* source, std::size_t bytes);
  /// After all ranks have met.
  void run(const Cell& cell, int tp, int dp, std::size_t tensor_bytes);

 private:
  [[nodiscard]] std::byte* area(int rank) const {
    return memory_.get() + static_cast<std::size_t>(rank) * stride_;
  }

  int rank_;
  int threads_;
  int world_;
  std::size_t stride_;
  std::shared_ptr<std::byte> memory_;  ///< of each rank what it has written, and what it copies
  Meeting flags_;
  std::size_t written_ = 0;
};

}  // namespace mixcomm::tools
