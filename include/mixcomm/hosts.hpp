// Which ranks run on which host.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// Hosts are numbered in the order of their first ranks. They may have different numbers of ranks.
struct Hosts {
  std::vector<int> of;             ///< by rank, its host
  std::vector<std::string> names;  ///< by host, what it calls itself; for people

  [[nodiscard]] int count() const { return static_cast<int>(names.size()); }

  /// Ascending.
  [[nodiscard]] std::vector<int> ranks_on(int host) const {
    std::vector<int> ranks;
    for (std::size_t r = 0; r < of.size(); ++r)
      if (of[r] == host) ranks.push_back(static_cast<int>(r));
    return ranks;
  }

  /// All ranks on one host.
  [[nodiscard]] static Hosts one(int ranks) {
    return {std::vector<int>(static_cast<std::size_t>(ranks), 0), {"this host"}};
  }

  /// Ranks whose identities are equal run on one host.
  [[nodiscard]] static Hosts from_identities(const std::vector<std::string>& by_rank) {
    Hosts hosts;
    for (const std::string& each : by_rank) {
      std::size_t host = 0;
      while (host < hosts.names.size() && hosts.names[host] != each) ++host;
      if (host == hosts.names.size()) hosts.names.push_back(each);
      hosts.of.push_back(static_cast<int>(host));
    }
    return hosts;
  }
};

}  // namespace mixcomm
