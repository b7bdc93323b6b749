// GPU memory that all ranks reach by plain loads and stores.
#pragma once

#include <memory>

#include "cuda/memory_provider.hpp"
#include "mixcomm/bootstrap.hpp"
#include "mixcomm/communicator.hpp"

namespace mixcomm::cuda {

/// Collective: the provider for where these ranks are; the bootstrap must outlive it. `device` is this
/// rank's. Where all ranks are threads of one process, they share one mapping; else all must be processes of
/// one host (several threads of one count as several), which pass descriptors on. With
/// CudaOptions::nccl_windows, NCCL does it all, within `timeout`. Throws Unsupported, on every rank and
/// naming two where it is about two: ranks on several hosts, a device that cannot reach another one's memory,
/// or (with CudaOptions::multicast and more than one rank) no multicast.
[[nodiscard]] std::unique_ptr<MemoryProvider> make_memory_provider(Bootstrap& bootstrap, int device,
                                                                   const CudaOptions& options,
                                                                   Milliseconds timeout);

}  // namespace mixcomm::cuda
