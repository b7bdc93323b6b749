// The CPU backend: ranks of one host, as threads or processes, over shared memory.
#pragma once

#include <memory>

#include "backend.hpp"
#include "mixcomm/communicator.hpp"

namespace mixcomm::cpu {

/// Collective over the bootstrap's ranks.
[[nodiscard]] std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                                    const CommunicatorOptions& options);

}  // namespace mixcomm::cpu
