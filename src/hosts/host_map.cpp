#include "hosts/host_map.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "mixcomm/error.hpp"

namespace mixcomm {

std::vector<HostPart> parts_of(const Hosts& hosts, int tp) {
  std::vector<HostPart> parts;
  std::vector<int> sizes;
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

}  // namespace mixcomm
