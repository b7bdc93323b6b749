// The CPU backend: ranks of one host, as threads or processes, over shared memory.
#pragma once

#include <memory>

#include "backend.hpp"
#include "mixcomm/communicator.hpp"

namespace mixcomm::cpu {

/// Collective over the bootstrap's ranks.
[[nodiscard]] std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                                    const CommunicatorOptions& options);

/// Processors that the ranks may run on together: ranks may be bound to one each, and a container may have
/// fewer than it sees. With more ranks than those they are crowded. Collective.
[[nodiscard]] int usable_processors(Bootstrap& bootstrap);

}  // namespace mixcomm::cpu
