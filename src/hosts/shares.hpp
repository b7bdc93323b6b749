// Who sends what to whom between two hosts: plain arithmetic, the same on all ranks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "algorithms/blocks.hpp"

namespace mixcomm {

/// A part of what one host has for another one: member `from` of the first sends it to member `to` of the
/// second.
struct Share {
  int from = 0;
  int to = 0;
  Range elements;
};

/// `size` elements from a host of `senders` members to one of `receivers`: near equal parts, as many as the
/// larger host has members, so that each member of both has a part. No pair has two, and what one member
/// receives is one run. Parts without elements are left out.
[[nodiscard]] inline std::vector<Share> shares_between(std::size_t size, int senders, int receivers) {
  const int parts = std::max(senders, receivers);
  std::vector<Share> shares;
  for (int p = 0; p < parts; ++p) {
    const Range elements = part(size, p, parts);
    if (elements.size > 0) shares.push_back({p * senders / parts, p * receivers / parts, elements});
  }
  return shares;
}

/// What member `to` receives of it.
[[nodiscard]] inline Range received_by(const std::vector<Share>& shares, int to, std::size_t size) {
  Range all{size, 0};
  for (const Share& each : shares)
    if (each.to == to) all = {std::min(all.begin, each.elements.begin), all.size + each.elements.size};
  return all;
}

}  // namespace mixcomm
