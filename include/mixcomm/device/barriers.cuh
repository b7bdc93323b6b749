// Barriers of one lane: plain data between two of them.
#pragma once

#include "mixcomm/device/lane.cuh"

namespace MIXCOMM_API mixcomm {
namespace device {

/// One lane's end of barriers with its peers on all members. `L` is Lane, or derived from it.
///
/// Between barriers data are plain: each rank writes to its own part of a staging area, or into symmetric
/// memory (Communicator::allocate()), meets the others, and then reads theirs. Between a rank's last read of
/// something and its owner's next write to it there must be a barrier as well.
template <class L = Lane>
class Barriers : public L {
 protected:
  using L::barriers_;
  using L::h_;
  using L::ok;
  using L::ok_;
  using L::state_;

 public:
  using L::barriers;
  using L::give_up;
  using L::L;
  using L::may_wait;
  using L::me;
  using L::members;
  using L::waited;
  using L::workspace;

  /// What of memory a barrier is for.
  struct Fences {
    bool releases = true;  ///< peers read behind it what this block has written before
    bool acquires = true;  ///< this block reads behind it what peers have written before
  };

  /// All threads of the block: waits until the blocks of this index have come to it on every member. False,
  /// for all threads, if some have not within the communicator's timeout: then the kernel returns, and
  /// check() on the host says who.
  __device__ bool meet(Fences fences) {
    ++barriers_;
    return meet_counted(fences);
  }

  /// Where this lane's part of member m's staging area begins, of workspace.lane_bytes bytes; there is a
  /// second one.
  [[nodiscard]] __device__ std::byte* staging(int m) const {
    return workspace(m) + h_.workspace.area(Area::staged_in(), blockIdx.x);
  }
  [[nodiscard]] __device__ std::byte* second_staging(int m) const {
    return workspace(m) + h_.workspace.area(Area::staged_out(), blockIdx.x);
  }

 protected:
  /// The barrier whose number barriers() is by now.
  __device__ bool meet_counted(Fences fences) {
    __syncthreads();
    if (threadIdx.x < members() && ok()) {
      std::uint32_t* const mine = flag(threadIdx.x, me());
      if (fences.releases)
        ptx::store_release(mine, barriers());
      else
        ptx::store_relaxed(mine, barriers());
      const std::uint32_t* theirs = flag(me(), threadIdx.x);
      while (!passed(fences.acquires ? ptx::load_acquire(theirs) : ptx::load_relaxed(theirs)))
        if (!may_wait()) {
          give_up(missing());
          break;
        }
    }
    ok_ = __syncthreads_and(ok());
    waited();
    // A rank that is late must not take this one's flag for its data, which others may overwrite from now on.
    if (!ok_ && state_.failed == 0 && threadIdx.x < members())
      ptx::store_release(flag(threadIdx.x, me()), barriers() - gave_up);
    return ok_;
  }

 private:
  /// A rank that gives up lowers its flag by this number. No other flag is ever so far behind, so peers can
  /// tell who gave up from who never came.
  static constexpr std::uint32_t gave_up = std::uint32_t{1} << 30U;
  [[nodiscard]] __device__ bool passed(std::uint32_t flag) const {
    return static_cast<std::int32_t>(flag - barriers()) >= 0;
  }
  /// The members that never came to this barrier; if there are none, those that came and gave up.
  [[nodiscard]] __device__ std::uint64_t missing() const {
    std::uint64_t never_came = 0;
    std::uint64_t gone = 0;
#pragma unroll 1
    for (int m = 0; m < members(); ++m) {
      const std::uint32_t theirs = ptx::load_relaxed(flag(me(), m));
      if (passed(theirs)) continue;
      const bool was_here = barriers() - theirs >= gave_up / 2;
      (was_here ? gone : never_came) |= std::uint64_t{1} << m;
    }
    return never_came != 0 ? never_came : gone;
  }
  /// The flag that member `from` raises for member `to`.
  [[nodiscard]] __device__ std::uint32_t* flag(int to, int from) const {
    return reinterpret_cast<std::uint32_t*>(workspace(to) +
                                            Workspace::flag(static_cast<int>(blockIdx.x), from));
  }
};

}  // namespace device
}  // namespace mixcomm
