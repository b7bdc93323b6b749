// Rotary position embedding.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "runner/numerics.hpp"

namespace mixcomm::runner {

struct SequenceRows;

/// cos and sin for each row of one step. Text has one position per token, so the three axes of Qwen's
/// multi-axis embedding coincide, and it is the plain one.
class RotaryAngles {
 public:
  /// Rotates the first `rotary_dim` values of each head.
  RotaryAngles(std::size_t rotary_dim, double theta, Precision precision);

  /// Computes the angles of a step's rows.
  void set(std::span<const SequenceRows> sequences);

  /// Rotates one head of `row` in place: pairs (i, i + rotary_dim / 2).
  void rotate(std::size_t row, std::span<float> head) const;

 private:
  Precision precision_;
  std::vector<float> frequencies_;  ///< rotary_dim / 2
  std::vector<float> cos_;
  std::vector<float> sin_;
};

}  // namespace mixcomm::runner
