// What ranks of one host share besides words: memory, open files, and who has ended.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "mixcomm/fd.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// One rank's end. All ranks make the same calls in the same order.
class HostSharing {
 public:
  virtual ~HostSharing() = default;

  /// Zeroed memory that all ranks of this host map, page aligned; it has no name in any file system.
  /// Collective. The mapping lives as long as the pointer. Throws Disagreement if ranks ask for different
  /// sizes, SystemError, Timeout; Unsupported if ranks are on several hosts.
  virtual std::shared_ptr<std::byte> share_memory(std::size_t bytes) = 0;

  /// Gives every rank copies of the open file that each rank brings: by rank, `mine` included, in descriptors
  /// of its own. `mine` stays the caller's; below 0 a rank gives none, and its place is invalid. Collective.
  /// Every rank succeeds, or every rank throws: SystemError, Timeout (naming the ranks from which nothing
  /// came), Disagreement (ranks in different steps); Unsupported if ranks are on several hosts.
  virtual std::vector<Fd> exchange_descriptors(std::string_view step, int mine) = 0;

  /// By rank, what can be polled for the end of its process (a pidfd: readable once it has ended). Invalid
  /// where the system has none; empty where ranks are no processes of their own. They live as long as this.
  /// Collective, at the first call. Throws what exchange_descriptors() does.
  virtual std::span<const Fd> processes() = 0;
};

}  // namespace mixcomm
