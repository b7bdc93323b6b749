// Order statistics.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

namespace mixcomm::tools {

/// The smallest value that at least `share` of them do not exceed; 0 without values.
[[nodiscard]] inline double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const auto rank = std::ceil(share * static_cast<double>(values.size())) - 1;
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>(std::max(rank, 0.0));
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

[[nodiscard]] inline double median(std::vector<double> values) {
  return percentile(std::move(values), 0.5);
}

/// To three places: as results are written.
[[nodiscard]] inline double rounded(double value) {
  return std::round(value * 1000) / 1000;
}

}  // namespace mixcomm::tools
