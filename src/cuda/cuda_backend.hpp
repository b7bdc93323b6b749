// The CUDA backend: ranks whose GPUs reach each other's memory, as threads of one process or processes of one
// node.
#pragma once

#include <memory>

#include "backend.hpp"
#include "mixcomm/communicator.hpp"
#include "mixcomm/device/handle.hpp"

namespace mixcomm::cuda {

/// Collective over the bootstrap's ranks. Throws Unsupported in a build without CUDA, or where the devices
/// cannot reach each other's memory.
[[nodiscard]] std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                                    const CommunicatorOptions& options);

/// What the kernels of a backend made here keep, and where they say that they have failed.
struct KernelState {
  device::RankMemory* memory = nullptr;
  device::FailureRecord* failure = nullptr;
};
[[nodiscard]] KernelState kernel_state_of(const Backend& backend);

}  // namespace mixcomm::cuda
