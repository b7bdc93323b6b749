// What all contexts are made of: one lane of one rank, its bounded waits, and where the caller's tiles lie.
#pragma once

#include "cuda/arguments.hpp"
#include "cuda/ptx.cuh"
#include "cuda/record_failure.cuh"
#include "cuda/tiles.cuh"

namespace mixcomm::cuda {

__device__ inline LaneState load_state(const LaneState& kept) {
  std::uint32_t words[4];
  ptx::load_once(&kept, words);
  return {words[0] | static_cast<std::uint64_t>(words[1]) << 32U, words[2], words[3]};
}

class Lane {
 public:
  __device__ Lane(const Arguments& arguments, const LaneBlocks& blocks) : a_(arguments), b_(blocks) {}

  __device__ void set_state(const LaneState& state) { state_ = state; }
  /// What the lane has counted so far.
  [[nodiscard]] __device__ std::uint64_t packets() const { return state_.packets + passes_; }
  [[nodiscard]] __device__ std::uint32_t barriers() const { return state_.barriers + barriers_; }

 protected:
  /// Where the covered part of block d begins in a tensor with all blocks, or with one.
  template <bool all_blocks>
  [[nodiscard]] __device__ std::size_t start(int d) const {
    return b_.start(all_blocks ? Coordinates::all_blocks : Coordinates::one_block, d);
  }
  /// Block d of the caller's input, or output: what this pass covers of it.
  template <class T, Body body>
  [[nodiscard]] __device__ const T* input_block(int d) const {
    return static_cast<const T*>(a_.in) + start<body == Body::scatter>(d);
  }
  template <class T, Body body>
  [[nodiscard]] __device__ T* output_block(int d) const {
    return static_cast<T*>(a_.out) + start<body == Body::gather>(d);
  }
  /// Whether this rank may write to others. Looked at for the first time as late as can be: it was just
  /// loaded.
  [[nodiscard]] __device__ bool ok() const { return ok_ && state_.failed == 0; }
  [[nodiscard]] __device__ int me() const { return a_.grid.world.member; }
  [[nodiscard]] __device__ int members() const { return a_.grid.world.size; }
  /// The workspace of member m of the operation's team.
  [[nodiscard]] __device__ std::byte* workspace(int m) const {
    return a_.workspace.of(a_.grid.world.rank(m));
  }
  /// My place in the order of a sum over all ranks.
  [[nodiscard]] __device__ int my_source() const {
    return a_.grid.dp.member * a_.grid.tp.size + a_.grid.tp.member;
  }

  /// Whether a wait that has not ended yet may go on. Costs a decrement as long as peers are fast: the clock
  /// is read for the first time after some thousand looks, and the deadline counts from there.
  __device__ bool may_wait() {
#if defined(MIXCOMM_UNBOUNDED_WAITS)
    return true;
#else
    if (--patience_ > 0) return true;
    patience_ = looks_between_clocks;
    const auto now = static_cast<std::uint32_t>(ptx::nanoseconds() >> 20U);  // 1.05 ms
    if (deadline_ == 0) deadline_ = now + a_.timeout;
    return static_cast<std::int32_t>(now - deadline_) < 0 &&
           ptx::load_relaxed(&a_.memory->lanes[a_.team][blockIdx.x].failed) == 0;
#endif
  }

  /// What is waited for next has a deadline of its own.
  __device__ void waited() {
    patience_ = looks_between_clocks;
    deadline_ = 0;
  }

  /// This thread has waited in vain for the ranks of `missing`, bit m for member m; 0: another one has found
  /// out first.
  __device__ void give_up(std::uint64_t missing) {
    ok_ = false;
    fail(FailureRecord::timeout, missing);
  }

  /// What the next operation counts from. Every lane counts the passes of every operation, also of those that
  /// have fewer lanes: all share the workspace, and must mean the same half of it. By all threads, when all
  /// have loaded the state.
  __device__ void keep(std::uint64_t packets, std::uint32_t barriers) const {
    LaneState* const lanes = a_.memory->lanes[a_.team];
    if (threadIdx.x == 0) lanes[blockIdx.x].barriers = barriers;
    MIXCOMM_ROLLED
    for (std::uint32_t i = blockIdx.x + threadIdx.x * gridDim.x; i < most_lanes; i += blockDim.x * gridDim.x)
      lanes[i].packets = packets;
  }

 public:
  __device__ void fail(FailureRecord::Kind kind, std::uint64_t missing) {
    record_failure(a_, kind, missing, packets() + barriers());
  }

 protected:
  const Arguments& a_;
  const LaneBlocks& b_;
  LaneState state_{};  ///< as loaded: copied nowhere, so that nothing waits for it before it is looked at
  std::uint32_t passes_ = 0;
  std::uint32_t barriers_ = 0;
  std::uint32_t deadline_ = 0;
  int patience_ = looks_between_clocks;
  static constexpr int looks_between_clocks = 4096;
  bool ok_ = true;  ///< of this thread: no wait of it has failed. One that has failed writes to no other rank
                    ///< any more.
};

}  // namespace mixcomm::cuda
