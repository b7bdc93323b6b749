// How a TP x DP grid lies on hosts.
#pragma once

#include <vector>

#include "mixcomm/grid.hpp"
#include "mixcomm/hosts.hpp"
#include "rank_set.hpp"

namespace mixcomm {

/// One host's part of the grid: whole DP groups, next to each other.
struct HostPart {
  int first_rank = 0;
  int ranks = 0;
  int first_dp = 0;
  int dp = 0;
};

/// By host. Throws Unsupported where a TP group lies on two hosts, or where a host's ranks are not next to
/// each other.
[[nodiscard]] std::vector<HostPart> parts_of(const Hosts& hosts, int tp);

/// By rank: the ranks of other hosts that it may exchange shares with, on the world or on its DP team.
[[nodiscard]] std::vector<RankSet> counterparts(const std::vector<HostPart>& parts, int tp);

/// By rank: all ranks that it reaches from one counterpart to the next, itself among them. With hosts of one
/// size these are the ranks at one place in each.
[[nodiscard]] std::vector<RankSet> circles(const std::vector<RankSet>& counterparts);

}  // namespace mixcomm
