// The members of a team that lie on each host: plain arithmetic.
#pragma once

#include <cstddef>
#include <vector>

#include "hosts/host_map.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm {

/// Of the world, which are whole DP groups, or of the DP team that the calling rank is in, which are a rank
/// of each. On a host they are numbered in the order of their DP ranks. `grid` and `parts` must outlive it.
class HostTeam {
 public:
  HostTeam(TeamKind team, const Grid& grid, const std::vector<HostPart>& parts)
      : grid_(grid), parts_(parts), is_world_(team == TeamKind::world) {}

  [[nodiscard]] int hosts() const { return static_cast<int>(parts_.size()); }
  [[nodiscard]] const HostPart& part(int host) const { return parts_[static_cast<std::size_t>(host)]; }
  /// Members of a DP rank.
  [[nodiscard]] int each() const { return is_world_ ? grid_.tp.size : 1; }
  [[nodiscard]] int members(int host) const { return part(host).dp * each(); }
  /// Of all ranks.
  [[nodiscard]] int rank(int host, int member) const {
    return part(host).first_rank + (is_world_ ? member : member * grid_.tp.size + grid_.tp.member);
  }
  /// The member that the calling rank is, which is on `host`.
  [[nodiscard]] int own(int host) const {
    const int rank = grid_.rank() - part(host).first_rank;
    return is_world_ ? rank : rank / grid_.tp.size;
  }

 private:
  const Grid& grid_;
  const std::vector<HostPart>& parts_;
  bool is_world_;
};

}  // namespace mixcomm
