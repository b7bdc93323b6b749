// Random numbers of tests that try operations at random.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "verify/numbers.hpp"

namespace mixcomm::test {

/// The same on every rank that begins with the same seed.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(verify::mix(seed)) {}
  std::uint64_t next() { return verify::mix(++state_ * 0x9E3779B97F4A7C15ULL); }
  std::size_t below(std::size_t n) { return next() % n; }
  bool once_in(std::size_t n) { return below(n) == 0; }
  template <class T, std::size_t n>
  T one_of(const T (&choices)[n]) {
    return choices[below(n)];
  }

 private:
  std::uint64_t state_;
};

/// Rows of each DP rank, `most` at most: in two of `patterns` cases any counts, in one all rows on one DP
/// rank, else even counts.
inline std::vector<std::size_t> random_rows(Random& random, int dp, std::size_t most, std::size_t patterns) {
  const std::size_t even = random.below(most + 1);
  const std::size_t lonely = random.below(static_cast<std::size_t>(dp));
  const std::size_t pattern = random.below(patterns);
  std::vector<std::size_t> rows;
  for (std::size_t d = 0; d < static_cast<std::size_t>(dp); ++d)
    rows.push_back(pattern < 2 ? random.below(most + 1) : pattern + 1 < patterns || d == lonely ? even : 0);
  return rows;
}

}  // namespace mixcomm::test
