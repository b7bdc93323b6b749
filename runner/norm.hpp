// Root-mean-square norms.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "runner/numerics.hpp"

namespace mixcomm::runner {

/// y = x / rms(x) * (1 + weight), over groups of weight.size() values.
class RmsNorm {
 public:
  RmsNorm(std::vector<float> weight, float epsilon, Precision precision);

  /// `out` may be `in`; their size is a multiple of size().
  void operator()(std::span<const float> in, std::span<float> out) const;

  [[nodiscard]] std::size_t size() const { return scale_.size(); }

 private:
  std::vector<float> scale_;
  float epsilon_;
  Precision precision_;
};

/// y = x / rms(x) * weight * silu(gate), over groups of weight.size() values: the norm that ends a DeltaNet
/// head.
class GatedRmsNorm {
 public:
  GatedRmsNorm(std::vector<float> weight, float epsilon, Precision precision)
      : weight_(std::move(weight)), epsilon_(epsilon), precision_(precision) {}

  /// One group, in place.
  void operator()(std::span<float> values, std::span<const float> gate) const;

 private:
  std::vector<float> weight_;
  float epsilon_;
  Precision precision_;
};

}  // namespace mixcomm::runner
