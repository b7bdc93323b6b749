// Which GPU each rank has, and who reaches whose memory.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "mixcomm/bootstrap.hpp"

namespace mixcomm::cuda {

/// What ranks tell each other of themselves.
struct Peer {
  int host = 0;                     ///< by Bootstrap::hosts()
  std::string process;              ///< equal for ranks that are threads of one process
  int device = 0;                   ///< its number there; another process may give it to another GPU
  std::string uuid;                 ///< names the GPU everywhere
  std::string name;                 ///< for people: model and PCI address
  std::size_t granularity = 0;      ///< sizes of memory are multiples of this
  bool shares_descriptors = false;  ///< its memory may be passed on as a file descriptor
  bool has_multicast = false;
};

/// Collective: all ranks, by rank; `device` is this one's. Every rank succeeds, or every rank throws:
/// Unsupported (no driver, a device without virtual memory management), CudaError for a device that cannot be
/// used, Timeout.
[[nodiscard]] std::vector<Peer> introduce(Bootstrap& bootstrap, int device);

/// Collective: throws Unsupported, on every rank and naming two, unless the GPU of each can read and write
/// the memory of all others'.
void check_access(Bootstrap& bootstrap, const std::vector<Peer>& peers);

}  // namespace mixcomm::cuda
