// Symmetric memory from windows of the caller's NCCL communicator.
#pragma once

#include <memory>

#include "cuda/memory_provider.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm::cuda {

/// Collective: GPU memory that NCCL allocates and maps for all ranks that reach each other by loads and
/// stores (its LSA team), which must be all: those of one node, or of one NVLink domain.
///
/// `nccl_comm` is a ncclComm_t over the bootstrap's ranks, in the same order, on `device`. It and the
/// bootstrap must outlive the provider, and the ncclComm_t all memory from it, too: what Slices::owner holds
/// goes back through it. It goes back on each rank by itself; ranks should let go in the same order, or
/// windows that the caller makes on the same ncclComm_t later may lie at different offsets. Slices::multicast
/// stays null.
///
/// Throws on every rank, naming one: InvalidArgument for no ncclComm_t, or one over other ranks; Unsupported
/// for an NCCL before 2.28, a communicator without windows (NCCL_CUMEM_ENABLE=0, NCCL_WIN_ENABLE=0, GPUs that
/// cannot reach each other), ranks beyond the LSA team, or a build without NCCL's headers; CudaError,
/// Timeout. Until `timeout` it waits for what a non-blocking ncclComm_t does in the background; in calls on a
/// blocking one, NCCL waits by itself.
///
/// With more than one rank this has been compiled only: NCCL wants a GPU for each then.
[[nodiscard]] std::unique_ptr<MemoryProvider> make_nccl_memory_provider(Bootstrap& bootstrap, int device,
                                                                        void* nccl_comm,
                                                                        Milliseconds timeout);

}  // namespace mixcomm::cuda
