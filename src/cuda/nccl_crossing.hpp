// What crosses hosts between GPUs: through NCCL, on the caller's stream.
#pragma once

#include <memory>

#include "backend.hpp"
#include "hosts/crossing.hpp"
#include "hosts/host_map.hpp"
#include "hosts/host_state.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm::cuda {

struct NcclCrossingSetup {
  Bootstrap& whole;         ///< all ranks, on several hosts; used while it is made
  const Backend& own_part;  ///< this host's part, of backend cuda; it must outlive the crossing
  HostState& state;         ///< of this host; likewise
  const std::vector<HostPart>& parts;
  Grid grid;                               ///< of all ranks
  Milliseconds timeout = default_timeout;  ///< of a crossing
  /// A ncclComm_t of the caller's over all ranks, to be split, and to run Algorithm::nccl with; null: NCCL is
  /// loaded, and communicators are made through the bootstrap.
  void* nccl = nullptr;
};

/// Collective; every rank succeeds, or every rank throws: Unsupported where there is no NCCL, or in a build
/// without its headers; InvalidArgument for another ncclComm_t, CudaError, Timeout.
///
/// run() puts three things on the stream, that may be captured in a graph: a kernel that writes a notice to
/// each peer, one group of NCCL's sends and receives, and a kernel that looks at the peers' notices. A thread
/// watches how far the stream is: it ends a crossing that takes too long, or of which NCCL says that it has
/// failed, by ncclCommAbort(), and leaves in `state` who is missing.
[[nodiscard]] std::unique_ptr<Crossing> make_nccl_crossing(const NcclCrossingSetup& setup);

}  // namespace mixcomm::cuda
