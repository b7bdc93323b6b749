// Who adds up what of an operation that scatters over hosts, and who finishes it: plain arithmetic, the same
// on all ranks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "algorithms/blocks.hpp"
#include "hosts/host_team.hpp"
#include "hosts/shares.hpp"
#include "hosts/subtrees.hpp"
#include "mixcomm/tensor.hpp"

namespace mixcomm {

/// What two runs have in common.
[[nodiscard]] inline Range overlap(const Range& a, const Range& b) {
  const std::size_t begin = std::max(a.begin, b.begin);
  const std::size_t end = std::min(a.begin + a.size, b.begin + b.size);
  return {begin, end > begin ? end - begin : 0};
}

/// Of one call. Ranges are elements of the tensor with all blocks.
class ScatterPlan {
 public:
  /// `begins`: where each DP rank's block begins, and where the last one ends. Blocks are shared out at
  /// multiples of `step` elements.
  ScatterPlan(const HostTeam& team, std::vector<std::size_t> begins, std::size_t step)
      : team_(team), begins_(std::move(begins)), step_(step) {
    const auto all = static_cast<int>(begins_.size()) - 1;
    for (int h = 0; h < team.hosts(); ++h)
      nodes_.push_back(subtrees_of(team.part(h).first_dp, team.part(h).dp, all));
  }

  [[nodiscard]] const HostTeam& team() const { return team_; }

  /// The blocks of a host.
  [[nodiscard]] Range run(int host) const {
    const HostPart& part = team_.part(host);
    return blocks(part.first_dp, part.dp);
  }
  /// What a member finishes: its share of its DP rank's block.
  [[nodiscard]] Range finished(int host, int member) const {
    const Range block = blocks(team_.part(host).first_dp + member / team_.each(), 1);
    return share_in(block, member % team_.each(), team_.each(), step_);
  }
  /// What a member adds up of what its host has of another host's blocks, or of its own.
  [[nodiscard]] Range summed(int host, int member, int for_host) const {
    if (host == for_host) return finished(host, member);
    return share_in(run(for_host), member, team_.members(host), granule);
  }
  /// What the calling rank, which is on `host`, sends of what it has added up, and receives of what it
  /// finishes.
  [[nodiscard]] Passages passages(int host) const {
    Passages all;
    const int own = team_.own(host);
    const auto add = [](std::vector<Passage>& to, int there, int member, const Range& a, const Range& b) {
      if (const Range both = overlap(a, b); both.size > 0) to.push_back({there, member, both});
    };
    for (int h = 0; h < team_.hosts(); ++h)
      for (int m = 0; h != host && m < team_.members(h); ++m) {
        add(all.out, h, m, summed(host, own, h), finished(h, m));
        add(all.in, h, m, summed(h, m, host), finished(host, own));
      }
    return all;
  }

  /// The parts of the sum that a host makes.
  [[nodiscard]] const std::vector<Subtree>& nodes(int host) const {
    return nodes_[static_cast<std::size_t>(host)];
  }
  /// What holds them: the elements of a single source, which have `dtype`, need no fp32.
  [[nodiscard]] DType dtype(const Subtree& node, DType dtype) const {
    return node.count * team_.each() == 1 ? dtype : DType::fp32;
  }
  /// The same as ranks of the host add it up, `tp` to a DP rank.
  [[nodiscard]] SumOrder order(int host, const Subtree& node, int tp) const {
    const HostPart& part = team_.part(host);
    const int first = team_.rank(host, (node.first - part.first_dp) * team_.each()) - part.first_rank;
    return {{first, 1, team_.each(), 0}, node.count, tp};
  }

 private:
  [[nodiscard]] Range blocks(int first, int count) const {
    const std::size_t begin = begins_[static_cast<std::size_t>(first)];
    return {begin, begins_[static_cast<std::size_t>(first + count)] - begin};
  }
  [[nodiscard]] static Range share_in(const Range& run, int member, int members, std::size_t step) {
    const Range share = part(run.size, member, members, step);
    return {run.begin + share.begin, share.size};
  }

  HostTeam team_;
  std::vector<std::size_t> begins_;
  std::size_t step_;
  std::vector<std::vector<Subtree>> nodes_;
};

}  // namespace mixcomm
