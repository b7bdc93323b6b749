// One lane of one rank: what it has counted, and waits that end.
#pragma once

#include "mixcomm/device/handle.hpp"
#include "mixcomm/device/ptx.cuh"

namespace MIXCOMM_API mixcomm {
namespace device {

__device__ inline LaneState load_state(const LaneState& kept) {
  std::uint32_t words[4];
  ptx::load_once(&kept, words);
  return {words[0] | static_cast<std::uint64_t>(words[1]) << 32U, words[2], words[3]};
}

/// The first failure of a rank is described to its host; all kernels of the rank leave.
__device__ inline void record_failure(const Handle& h, FailureRecord::Kind kind, std::uint64_t missing,
                                      std::uint64_t step) {
  RankMemory& memory = *h.memory;
  if (atomicExch(&memory.failure_claimed, 1U) == 0) {
    volatile FailureRecord& record = *h.failure;
    record.kind = kind;
    record.op = h.op;
    record.team = h.team;
    record.lane = blockIdx.x;
    record.number = h.number;
    record.step = step;
    record.missing = missing;
    __threadfence_system();
    record.complete = 1;
  }
  LaneState* const lanes = memory.lanes[0];
#pragma unroll 1
  for (int i = 0; i < team_kinds * most_lanes; ++i)
    *static_cast<volatile std::uint32_t*>(&lanes[i].failed) = 1;
  __threadfence_system();
}

/// A thread block's end of its lane. Every thread has one of its own, made of the kernel's handle, and calls
/// what the text of each function says.
///
/// A block is whole warps. A kernel of one's own begins with begin_launch() and ends with end_launch(); in
/// between it meets its peers by Messages or Barriers, which derive from this. Whoever waits in a way of his
/// own asks may_wait() after each look, and calls give_up() when it says no.
class Lane {
 public:
  __device__ explicit Lane(const Handle& handle) : h_(handle) {}

  /// All threads of the block, before anything is sent or waited for: waits for the kernel before this one,
  /// where it was launched so early, and loads what the lane has counted. False, for all threads, if the
  /// communicator has failed: then the kernel returns, and check() on the host says why.
  [[nodiscard]] __device__ bool begin_launch() {
    ptx::wait_for_previous_kernel();
    state_ = load_state(h_.lanes[blockIdx.x]);
    state_.failed |= ptx::load_relaxed(&h_.memory->failure_claimed);
    return __syncthreads_or(static_cast<int>(state_.failed)) == 0;
  }
  /// All threads, last: what the next launch counts from.
  __device__ void end_launch() const {
    __syncthreads();
    keep(packets(), barriers());
  }

  /// This rank's member number in the lanes' team, and how many members there are.
  [[nodiscard]] __device__ int me() const { return h_.grid.world.member; }
  [[nodiscard]] __device__ int members() const { return h_.grid.world.size; }
  /// The slice of the workspace that member m's kernels wait at. Anybody may write there what belongs to this
  /// lane; what lies where, Workspace says.
  [[nodiscard]] __device__ std::byte* workspace(int m) const {
    return h_.workspace.of(h_.grid.world.rank(m));
  }

  /// What the lane has counted so far.
  [[nodiscard]] __device__ std::uint64_t packets() const { return state_.packets + passes_; }
  [[nodiscard]] __device__ std::uint32_t barriers() const { return state_.barriers + barriers_; }

  /// Whether a wait that has not ended yet may go on: asked by a thread after each look in vain. False at the
  /// communicator's timeout, or when another thread of the rank has given up. Costs a decrement as long as
  /// peers are fast: the clock is read for the first time after some thousand looks, and the deadline counts
  /// from there.
  __device__ bool may_wait() {
#if defined(MIXCOMM_UNBOUNDED_WAITS)
    return true;
#else
    if (--patience_ > 0) return true;
    patience_ = looks_between_clocks;
    const auto now = static_cast<std::uint32_t>(ptx::nanoseconds() >> 20U);  // 1.05 ms
    if (deadline_ == 0) deadline_ = now + h_.timeout;
    return static_cast<std::int32_t>(now - deadline_) < 0 &&
           ptx::load_relaxed(&h_.memory->failure_claimed) == 0;
#endif
  }

  /// What is waited for next has a deadline of its own.
  __device__ void waited() {
    patience_ = looks_between_clocks;
    deadline_ = 0;
  }

  /// This thread has waited in vain for the members of `missing`, bit m for member m: the host's next call
  /// and check() throw Timeout, which names them, and all kernels of this rank leave. The thread may write to
  /// no other rank any more. 0: another thread has found out first.
  __device__ void give_up(std::uint64_t missing) {
    ok_ = false;
    fail(FailureRecord::timeout, missing);
  }
  __device__ void fail(FailureRecord::Kind kind, std::uint64_t missing) {
    record_failure(h_, kind, missing, packets() + barriers());
  }

  /// In place of begin_launch(), for a kernel that has loaded the state itself.
  __device__ void set_state(const LaneState& state) {
    state_ = state;
  }

 protected:
  /// Whether this rank may write to others. Looked at for the first time as late as can be: it was just
  /// loaded.
  [[nodiscard]] __device__ bool ok() const {
    return ok_ && state_.failed == 0;
  }

  /// What the next operation counts from. Every lane counts the passes of every operation, also of those that
  /// have fewer lanes: all share the workspace, and must mean the same half of it. By all threads, when all
  /// have loaded the state.
  __device__ void keep(std::uint64_t packets, std::uint32_t barriers) const {
    LaneState* const lanes = h_.lanes;
    if (threadIdx.x == 0) lanes[blockIdx.x].barriers = barriers;
    MIXCOMM_ROLLED
    for (std::uint32_t i = blockIdx.x + threadIdx.x * gridDim.x; i < most_lanes; i += blockDim.x * gridDim.x)
      lanes[i].packets = packets;
  }

  // What the library's own tests break: a class derived from this may hide these two.

  /// Which half of the areas a pass uses.
  [[nodiscard]] __device__ static int half_of(std::uint64_t number) {
    return static_cast<int>(number % 2);
  }
  /// Whether what a look has found is taken: if it has the pass's number.
  [[nodiscard]] __device__ static bool taken(bool has_number) {
    return has_number;
  }

  const Handle& h_;
  LaneState state_{};  ///< as loaded: copied nowhere, so that nothing waits for it before it is looked at
  std::uint32_t passes_ = 0;
  std::uint32_t barriers_ = 0;
  std::uint32_t deadline_ = 0;
  int patience_ = looks_between_clocks;
  static constexpr int looks_between_clocks = 4096;
  bool ok_ = true;  ///< of this thread: no wait of it has failed. One that has failed writes to no other rank
                    ///< any more.
};

}  // namespace device
}  // namespace mixcomm
