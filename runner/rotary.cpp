#include "runner/rotary.hpp"

#include <cmath>

#include "runner/mixer.hpp"

namespace mixcomm::runner {

RotaryAngles::RotaryAngles(std::size_t rotary_dim, double theta, Precision precision)
    : precision_(precision), frequencies_(rotary_dim / 2) {
  for (std::size_t i = 0; i < frequencies_.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary_dim);
    frequencies_[i] = 1.0F / std::pow(static_cast<float>(theta), exponent);
  }
}

void RotaryAngles::set(std::span<const SequenceRows> sequences) {
  const std::size_t half = frequencies_.size();
  const std::size_t rows = sequences.empty() ? 0 : sequences.back().first_row + sequences.back().rows;
  float* cos = grown(cos_, rows * half).data();
  float* sin = grown(sin_, rows * half).data();
  for (const SequenceRows& sequence : sequences) {
    for (std::size_t row = 0; row < sequence.rows; ++row) {
      const auto position = static_cast<float>(sequence.position + row);
      for (std::size_t i = 0; i < half; ++i) {
        const std::size_t at = (sequence.first_row + row) * half + i;
        cos[at] = precision_.round(std::cos(position * frequencies_[i]));
        sin[at] = precision_.round(std::sin(position * frequencies_[i]));
      }
    }
  }
}

void RotaryAngles::rotate(std::size_t row, std::span<float> head) const {
  const std::size_t half = frequencies_.size();
  const float* cos = cos_.data() + row * half;
  const float* sin = sin_.data() + row * half;
  for (std::size_t i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[i + half];
    head[i] = precision_.round(precision_.round(a * cos[i]) - precision_.round(b * sin[i]));
    head[i + half] = precision_.round(precision_.round(b * cos[i]) + precision_.round(a * sin[i]));
  }
}

}  // namespace mixcomm::runner
