// From the times of each rank's steps to the latencies of all ranks together.
#pragma once

#include <string>
#include <vector>

#include "runner/decoder.hpp"
#include "tools/command.hpp"

namespace mixcomm::tools {

/// Nanoseconds of the host's clock, which all ranks of it share: [[begin, end, [comm begin, comm end, ...]],
/// ...], by step.
[[nodiscard]] Json to_json(const std::vector<runner::StepTimes>& steps);

/// Adds up batches. A step ends when it ends on the last rank.
class LatencyReport {
 public:
  /// One batch: to_json() of every rank's steps, by rank; the first step is the prefill.
  void add(const std::vector<Json>& ranks);

  /// {"prefill_ms", "decode_steps", "inter_token_p50_us", "inter_token_p99_us", "collectives_share",
  /// "collectives_share_without_waiting"}: shares of the time of the decode steps. Without waiting: from when
  /// the last rank comes to a collective until the last one leaves it; with it: the time in collectives, on
  /// average over the ranks. Null without a decode step.
  [[nodiscard]] Json json() const;

 private:
  double prefill_ns_ = 0;
  std::vector<double> inter_token_ns_;
  double decode_ns_ = 0;
  double comm_ns_ = 0;
  double comm_without_waiting_ns_ = 0;
};

}  // namespace mixcomm::tools
