// The CUDA backend: ranks whose GPUs reach each other's memory, as threads of one process or processes of one
// node.
#pragma once

#include <memory>

#include "backend.hpp"
#include "mixcomm/communicator.hpp"

namespace mixcomm::cuda {

/// Collective over the bootstrap's ranks. Throws Unsupported in a build without CUDA, or where the devices
/// cannot reach each other's memory.
[[nodiscard]] std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                                    const CommunicatorOptions& options);

}  // namespace mixcomm::cuda
