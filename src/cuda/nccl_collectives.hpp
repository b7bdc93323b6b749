// Operations through the collectives of the caller's NCCL communicator, to compare with and to fall back to.
#pragma once

#include <memory>

#include "backend.hpp"
#include "mixcomm/bootstrap.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm::cuda {

/// The caller's ncclComm_t, and what was split off it for the teams of a grid.
///
/// A team that holds all ranks uses the caller's communicator itself: then the caller's own collectives on it
/// must come in one order with these on all ranks. NCCL's waits are its own: no deadline of ours ends them.
class NcclCollectives {
 public:
  /// Collective over the grid's ranks if both tp and dp are more than 1 (it splits). `nccl_comm` is a
  /// ncclComm_t over the grid's ranks, in the same order, on the calling thread's current device; it must
  /// outlive this. Throws InvalidArgument for another one; Unsupported where no NCCL is loaded, or in a build
  /// without NCCL's headers; CudaError, Timeout.
  NcclCollectives(void* nccl_comm, const Grid& grid);
  /// Waits until NCCL is done with the operations that were started.
  ~NcclCollectives();
  NcclCollectives(const NcclCollectives&) = delete;
  NcclCollectives& operator=(const NcclCollectives&) = delete;

  /// Puts one operation on the call's stream: one collective for blocks of one size, else a group of one
  /// broadcast or reduction per block. May be captured in a CUDA graph. In place as all operations are.
  /// NCCL's sums are not ordered ones. Throws Unsupported for the two fused operations on a grid where both
  /// tp and dp are more than 1, and for row counts in device memory; CudaError, Timeout.
  void run(const Call& call);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Collective. Makes an NcclCollectives on every rank. If one rank's ncclComm_t does not fit, every rank
/// throws that rank's error before any of them splits its communicator: otherwise the ranks whose
/// communicator fits would wait for it in NCCL.
[[nodiscard]] std::unique_ptr<NcclCollectives> make_nccl_collectives(Bootstrap& bootstrap, void* nccl_comm,
                                                                     const Grid& grid);

}  // namespace mixcomm::cuda
