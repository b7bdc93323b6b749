#include "hosts/host_map.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "hosts/shares.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {

std::vector<HostPart> parts_of(const Hosts& hosts, int tp) {
  std::vector<HostPart> parts;
  std::vector<int> sizes;
  sizes.reserve(hosts.names.size());
  for (int h = 0; h < hosts.count(); ++h) sizes.push_back(static_cast<int>(hosts.ranks_on(h).size()));
  for (int h = 0; h < hosts.count(); ++h) {
    const std::vector<int> ranks = hosts.ranks_on(h);
    const int size = sizes[static_cast<std::size_t>(h)];
    if (ranks.back() - ranks.front() + 1 != size)
      throw Unsupported(
          fmt::format("host '{}' has ranks {}, which are not next to each other; start the ranks host by "
                      "host (mpirun --map-by "
                      "slot, srun --distribution=block)",
                      hosts.names[static_cast<std::size_t>(h)], fmt::join(ranks, ", ")));
    if (ranks.front() % tp != 0 || size % tp != 0)
      throw Unsupported(
          fmt::format("tp {} does not divide the ranks of each host, which are {}: a TP group would lie on "
                      "two hosts, and sums are "
                      "made within one; choose tp so that each host holds whole TP groups",
                      tp, fmt::join(sizes, ", ")));
    parts.push_back({ranks.front(), size, ranks.front() / tp, size / tp});
  }
  return parts;
}

std::vector<RankSet> counterparts(const std::vector<HostPart>& parts, int tp) {
  std::vector<RankSet> of(static_cast<std::size_t>(parts.back().first_rank + parts.back().ranks));
  // So many elements that no share is empty.
  constexpr std::size_t many = granule * max_ranks;
  const auto join = [&](int sender, int receiver) {
    of[static_cast<std::size_t>(sender)] |= just(receiver);
    of[static_cast<std::size_t>(receiver)] |= just(sender);
  };
  for (const HostPart& a : parts)
    for (const HostPart& b : parts) {
      if (a.first_rank == b.first_rank) continue;
      for (const Share& each : shares_between(many, a.ranks, b.ranks))
        join(a.first_rank + each.from, b.first_rank + each.to);
      for (int t = 0; t < tp; ++t)
        for (const Share& each : shares_between(many, a.dp, b.dp))
          join(a.first_rank + each.from * tp + t, b.first_rank + each.to * tp + t);
    }
  return of;
}

std::vector<RankSet> circles(const std::vector<RankSet>& counterparts) {
  std::vector<RankSet> of(counterparts.size());
  for (std::size_t r = 0; r < of.size(); ++r) {
    RankSet reached = just(static_cast<int>(r));
    for (RankSet before = 0; before != reached;) {
      before = reached;
      for (const int each : ranks_in(before)) reached |= counterparts[static_cast<std::size_t>(each)];
    }
    of[r] = reached;
  }
  return of;
}

}  // namespace mixcomm
