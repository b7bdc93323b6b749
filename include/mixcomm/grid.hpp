// Ranks, teams and the TP x DP grid: plain values, usable on the host and on a GPU.
#pragma once

#include <cstdint>

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// The most ranks that one communicator holds.
inline constexpr int max_ranks = 64;

/// A strided set of ranks: { first + m * stride : 0 <= m < size }. `member` is the calling rank's index in
/// it.
struct Team {
  int first = 0;
  int stride = 1;
  int size = 1;
  int member = 0;

  /// The rank of member `m`.
  [[nodiscard]] MIXCOMM_HD constexpr int rank(int m) const { return first + m * stride; }

  /// The team of `rank` alone.
  [[nodiscard]] MIXCOMM_HD static constexpr Team alone(int rank) { return {rank, 1, 1, 0}; }

  friend constexpr bool operator==(const Team&, const Team&) = default;
};

/// The order of one sum: a tree of neighbours over the `inner` members, ((0 + 1) + (2 + 3)) + ..., for each
/// outer index, then the same over what came of these; what is left over is added from the smallest sum up
/// (docs/design.md, Numbers). x[i, o] is from rank first + i * inner.stride + o * outer_stride.
struct SumOrder {
  Team inner;
  int outer_size = 1;
  int outer_stride = 0;

  [[nodiscard]] MIXCOMM_HD constexpr int size() const { return inner.size * outer_size; }
  [[nodiscard]] MIXCOMM_HD constexpr int rank(int i, int o) const { return inner.rank(i) + o * outer_stride; }
};

/// The ranks of one operation, as seen by one rank: dp groups of tp ranks, rank = dp_rank * tp + tp_rank (TP
/// fastest). `tp` and `dp` are the teams that the calling rank belongs to; `world` holds all ranks of the
/// grid. A part of a grid (only its TP team, only its DP team) is a Grid again, so an operation over a part
/// needs no code of its own: all_reduce is all_reduce_all_gather on tp_only(), all_gather the same on
/// dp_only().
struct Grid {
  Team world;
  Team tp;
  Team dp;

  [[nodiscard]] MIXCOMM_HD static constexpr Grid of(int tp, int dp, int rank) {
    return {{0, 1, tp * dp, rank}, {rank - rank % tp, 1, tp, rank % tp}, {rank % tp, tp, dp, rank / tp}};
  }

  [[nodiscard]] MIXCOMM_HD constexpr int rank() const { return tp.rank(tp.member); }
  [[nodiscard]] MIXCOMM_HD constexpr Grid tp_only() const { return {tp, tp, Team::alone(rank())}; }
  [[nodiscard]] MIXCOMM_HD constexpr Grid dp_only() const { return {dp, Team::alone(rank()), dp}; }

  /// The same ranks, each of them a DP rank.
  [[nodiscard]] MIXCOMM_HD constexpr Grid flat() const { return {world, Team::alone(rank()), world}; }

  /// The sum over the TP ranks of DP group `d`.
  [[nodiscard]] MIXCOMM_HD constexpr SumOrder over_tp(int d) const {
    return {{tp.first + (d - dp.member) * dp.stride, tp.stride, tp.size, tp.member}, 1, 0};
  }

  /// The sum over all ranks: over the TP ranks of each DP group, then over the groups.
  [[nodiscard]] MIXCOMM_HD constexpr SumOrder over_world() const {
    return {over_tp(0).inner, dp.size, dp.stride};
  }

  friend constexpr bool operator==(const Grid&, const Grid&) = default;
};

/// The part of a grid that an operation runs on.
enum class TeamKind : std::uint8_t { world, tp, dp };
inline constexpr int team_kinds = 3;

[[nodiscard]] constexpr Grid grid_of(const Grid& grid, TeamKind team) {
  return team == TeamKind::tp ? grid.tp_only() : team == TeamKind::dp ? grid.dp_only() : grid;
}

}  // namespace mixcomm
