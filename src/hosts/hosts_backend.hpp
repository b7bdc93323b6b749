// The backend of ranks on several hosts: each host's own backend, and a transport between them.
#pragma once

#include <memory>

#include "backend.hpp"
#include "mixcomm/communicator.hpp"

namespace mixcomm::hosts {

/// Collective over the bootstrap's ranks. Where they are on one host, or nothing carries data between theirs,
/// it is the CPU backend, which says so.
[[nodiscard]] std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                                    const CommunicatorOptions& options);

}  // namespace mixcomm::hosts
