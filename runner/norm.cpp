#include "runner/norm.hpp"

#include <cmath>

namespace mixcomm::runner {
namespace {

float inverse_rms(std::span<const float> values, float epsilon) {
  const float mean = dot(values.data(), values.data(), values.size()) / static_cast<float>(values.size());
  return 1.0F / std::sqrt(mean + epsilon);
}

}  // namespace

RmsNorm::RmsNorm(std::vector<float> weight, float epsilon, Precision precision)
    : scale_(std::move(weight)), epsilon_(epsilon), precision_(precision) {
  for (float& scale : scale_) scale += 1.0F;
}

void RmsNorm::operator()(std::span<const float> in, std::span<float> out) const {
  const std::size_t n = scale_.size();
  for (std::size_t begin = 0; begin < in.size(); begin += n) {
    const float inverse = inverse_rms(in.subspan(begin, n), epsilon_);
    const float* x = in.data() + begin;
    float* y = out.data() + begin;
    for (std::size_t i = 0; i < n; ++i) y[i] = precision_.round(x[i] * inverse * scale_[i]);
  }
}

void GatedRmsNorm::operator()(std::span<float> values, std::span<const float> gate) const {
  const float inverse = inverse_rms(values, epsilon_);
  for (std::size_t i = 0; i < values.size(); ++i) {
    // Rounded twice before the gate: a bf16 model casts the normed value, then multiplies it by a bf16
    // weight.
    const float normed = precision_.round(weight_[i] * precision_.round(values[i] * inverse));
    values[i] = precision_.round(normed * silu(gate[i]));
  }
}

}  // namespace mixcomm::runner
