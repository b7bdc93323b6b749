// What `automatic` runs on CUDA, by how the GPUs are joined. What the numbers rest on is in
// docs/performance.md.
#pragma once

#include "mixcomm/choice.hpp"

namespace mixcomm {

/// What an operation moves, over its part of the grid.
struct GpuTraffic {
  explicit GpuTraffic(const Circumstances& circumstances);

  /// What the busiest rank sends or receives.
  [[nodiscard]] double one_shot_bytes() const { return (ranks - 1) * largest; }
  [[nodiscard]] double two_shot_bytes() const {
    const double sums = all / ranks;  // of each rank
    return body == Body::gather ? largest * (tp - 1) / tp + sums * (ranks - 1) : all - sums + sums * (tp - 1);
  }

  double ranks;
  double tp;
  double all;      ///< bytes of the tensor with all rows
  double largest;  ///< ... of the largest DP rank's rows
  Body body;
};

[[nodiscard]] Algorithm choose_on_gpus(const Circumstances& circumstances);
[[nodiscard]] LaunchShape shape_on_gpus(const Circumstances& circumstances, Algorithm algorithm);
/// Why choose_on_gpus() takes what it takes, in a sentence.
[[nodiscard]] std::string why_on_gpus(const Circumstances& circumstances);

}  // namespace mixcomm
