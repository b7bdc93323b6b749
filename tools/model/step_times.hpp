// From the times of each rank's steps to the latencies of all ranks together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "measure/json.hpp"
#include "runner/generate.hpp"

namespace mixcomm::tools {

/// Nanoseconds of the host's clock, which all ranks of it share.
struct Interval {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// One rank's step.
struct RankStep {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::vector<Interval> collectives;  ///< the exchange of row counts first; the same ones on every rank
};

[[nodiscard]] std::vector<RankStep> rank_steps(const runner::Generated& generated);
[[nodiscard]] Json to_json(const std::vector<RankStep>& steps);
[[nodiscard]] std::vector<RankStep> rank_steps_from(const Json& json);

/// Adds up batches. Latencies are of all ranks together: a step ends when it ends on the last one. Shares are
/// of ranks' time: a rank's decode steps last from the end of its prefill to the end of its last step,
/// without a gap, and hold all its collectives, so that no share is more than 1.
class LatencyReport {
 public:
  /// One batch: every rank's steps, by rank; the first step is the prefill.
  void add(const std::vector<std::vector<RankStep>>& ranks);

  /// Of the ranks' time in decode steps, summed over the ranks, what passes in collectives; 0 without a step.
  [[nodiscard]] double collectives_share() const;
  /// The same without what passes before the last rank has come to the collective.
  [[nodiscard]] double collectives_share_without_waiting() const;

  /// {"prefill_ms", "decode_steps", "inter_token_p50_us", "inter_token_p99_us", "collectives_share",
  /// "collectives_share_without_waiting"}; null where there is no decode step to say it of.
  [[nodiscard]] Json json() const;

 private:
  double prefill_ns_ = 0;
  std::vector<double> inter_token_ns_;
  std::int64_t ranks_ns_ = 0;  ///< of decode steps, summed over the ranks, as the next two
  std::int64_t collectives_ns_ = 0;
  std::int64_t without_waiting_ns_ = 0;
};

}  // namespace mixcomm::tools
