// Sets of ranks, as a word.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mixcomm/grid.hpp"

namespace mixcomm {

/// Bit r: rank r is in it.
using RankSet = std::uint64_t;
static_assert(max_ranks <= 64);

[[nodiscard]] constexpr RankSet just(int rank) {
  return RankSet{1} << static_cast<unsigned>(rank);
}
[[nodiscard]] constexpr bool holds(RankSet set, int rank) {
  return (set & just(rank)) != 0;
}
/// The ranks 0 to count - 1.
[[nodiscard]] constexpr RankSet first_ranks(int count) {
  return count == max_ranks ? ~RankSet{0} : just(count) - 1;
}
[[nodiscard]] constexpr RankSet set_of(std::span<const int> ranks) {
  RankSet set = 0;
  for (const int rank : ranks) set |= just(rank);
  return set;
}
/// Ascending.
[[nodiscard]] inline std::vector<int> ranks_in(RankSet set) {
  std::vector<int> ranks;
  for (int r = 0; r < max_ranks; ++r)
    if (holds(set, r)) ranks.push_back(r);
  return ranks;
}

}  // namespace mixcomm
