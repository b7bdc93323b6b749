// How a TP x DP grid lies on hosts.
#pragma once

#include <string>
#include <vector>

#include "mixcomm/grid.hpp"
#include "mixcomm/hosts.hpp"

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

}  // namespace mixcomm
