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

/// Elements that a member of one host's team sends to a member of another's, or receives from it.
struct Passage {
  int host = 0;
  int member = 0;
  Range elements;  ///< of all hosts' elements
};
struct Passages {
  std::vector<Passage> out;
  std::vector<Passage> in;
};

/// What member `own` of `host` sends and receives where each host's run, complete there, goes to all others;
/// `members`: of each host's team.
[[nodiscard]] inline Passages passages_of(const std::vector<Range>& runs, const std::vector<int>& members,
                                          std::size_t host, int own) {
  Passages all;
  const Range& mine = runs[host];
  for (std::size_t h = 0; h < runs.size(); ++h) {
    if (h == host) continue;
    const int there = static_cast<int>(h);
    for (const Share& each : shares_between(mine.size, members[host], members[h]))
      if (each.from == own)
        all.out.push_back({there, each.to, {mine.begin + each.elements.begin, each.elements.size}});
    for (const Share& each : shares_between(runs[h].size, members[h], members[host]))
      if (each.to == own)
        all.in.push_back({there, each.from, {runs[h].begin + each.elements.begin, each.elements.size}});
  }
  return all;
}

}  // namespace mixcomm
