// Which ranks' processes have ended, as the operating system tells it.
#pragma once

#include <poll.h>

#include <span>
#include <vector>

#include "mixcomm/fd.hpp"
#include "rank_set.hpp"

namespace mixcomm {

/// A pidfd of this process, for others to watch; invalid where the system has none (Linux before 5.3, or a
/// sandbox that forbids it: errno says why). Throws SystemError for want of descriptors.
[[nodiscard]] Fd this_process();

/// Looks when it is asked to: it has no thread, and costs nothing until then.
class DeathWatch {
 public:
  DeathWatch() = default;
  /// By rank, as Bootstrap::processes() has them; they must outlive this.
  explicit DeathWatch(std::span<const Fd> processes) : DeathWatch(processes, {}) {}
  /// ... where each rank goes by the number in `names`.
  DeathWatch(std::span<const Fd> processes, std::span<const int> names);

  /// Those of `among` whose process is known to have ended. One system call at most; does not wait. What the
  /// ended ranks wrote before is visible afterwards: the system took locks to end them, and to look.
  [[nodiscard]] RankSet dead(RankSet among) const;

  /// Those of `among` whose process would be watched if it had given a pidfd: their end is found by a
  /// deadline.
  [[nodiscard]] RankSet unseen(RankSet among) const { return among & unseen_; }

 private:
  std::vector<pollfd> entries_;
  std::vector<int> ranks_;  ///< of the entries
  RankSet unseen_ = 0;
};

}  // namespace mixcomm
