// Who adds up what of an operation that scatters over hosts, and who finishes it: plain arithmetic, the same
// on all ranks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "call.hpp"
#include "hosts/host_map.hpp"
#include "hosts/subtrees.hpp"

namespace mixcomm {

/// What two runs have in common.
[[nodiscard]] inline Range overlap(const Range& a, const Range& b) {
  const std::size_t begin = std::max(a.begin, b.begin);
  const std::size_t end = std::min(a.begin + a.size, b.begin + b.size);
  return {begin, end > begin ? end - begin : 0};
}

/// Of one call. Members are those of the call's team on a host, next to each other; ranges are elements of
/// the tensor with all blocks.
class ScatterPlan {
 public:
  ScatterPlan(const Call& call, const Grid& grid, const std::vector<HostPart>& parts)
      : call_(call),
        grid_(grid),
        parts_(parts),
        each_(call.team == TeamKind::world ? grid.tp.size : 1),
        step_(call.epilogue.any() ? call.hidden : granule) {
    for (const HostPart& part : parts) nodes_.push_back(subtrees_of(part.first_dp, part.dp, grid.dp.size));
  }

  [[nodiscard]] int hosts() const { return static_cast<int>(parts_.size()); }
  /// Members of a DP rank.
  [[nodiscard]] int each() const { return each_; }
  [[nodiscard]] int members(int host) const { return part(host).dp * each_; }
  /// Of all ranks.
  [[nodiscard]] int rank(int host, int member) const {
    return part(host).first_rank + (each_ > 1 ? member : member * grid_.tp.size + grid_.tp.member);
  }
  /// The member that I am.
  [[nodiscard]] int own(int host) const {
    const int rank = grid_.rank() - part(host).first_rank;
    return each_ > 1 ? rank : rank / grid_.tp.size;
  }

  /// The blocks of a host.
  [[nodiscard]] Range run(int host) const {
    const std::size_t begin = call_.blocks.offset(part(host).first_dp);
    return {begin, call_.blocks.offset(part(host).first_dp + part(host).dp) - begin};
  }
  /// What a member finishes: its share of its DP rank's block, whole rows if there is an epilogue.
  [[nodiscard]] Range finished(int host, int member) const {
    const int d = part(host).first_dp + member / each_;
    const Range share = mixcomm::part(call_.blocks.full_size(d), member % each_, each_, step_);
    return {call_.blocks.offset(d) + share.begin, share.size};
  }
  /// What a member adds up of what its host has of another host's blocks, or of its own.
  [[nodiscard]] Range summed(int host, int member, int for_host) const {
    if (host == for_host) return finished(host, member);
    const Range all = run(for_host);
    const Range share = mixcomm::part(all.size, member, members(host));
    return {all.begin + share.begin, share.size};
  }

  /// The parts of the sum that a host makes.
  [[nodiscard]] const std::vector<Subtree>& nodes(int host) const {
    return nodes_[static_cast<std::size_t>(host)];
  }
  /// What holds them: the elements of a single source need no fp32.
  [[nodiscard]] DType dtype(const Subtree& node) const {
    return node.count * each_ == 1 ? call_.dtype : DType::fp32;
  }
  /// The same as ranks of the host add it up.
  [[nodiscard]] SumOrder order(int host, const Subtree& node) const {
    const int first = rank(host, (node.first - part(host).first_dp) * each_) - part(host).first_rank;
    return {{first, 1, each_, 0}, node.count, grid_.tp.size};
  }

 private:
  [[nodiscard]] const HostPart& part(int host) const { return parts_[static_cast<std::size_t>(host)]; }

  const Call& call_;
  const Grid& grid_;
  const std::vector<HostPart>& parts_;
  int each_;
  std::size_t step_;  ///< at multiples of which a block is shared out
  std::vector<std::vector<Subtree>> nodes_;
};

}  // namespace mixcomm
