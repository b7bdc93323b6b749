// In how many lanes a call copies and sums, and how many threads carry them at this moment.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mixcomm::cpu {

/// From which size on threads help. Tests set it lower, so that small tensors have helpers, too.
struct ThreadRule {
  std::size_t least_bytes = std::size_t{64} << 10U;  ///< calls of fewer are the caller's alone
  std::size_t bytes_each = std::size_t{16} << 10U;   ///< of which each lane has as many or more
};
inline ThreadRule& thread_rule() {
  static ThreadRule rule;
  return rule;
}

/// Of a call of that size; `most`: that there may be. The same on all ranks.
[[nodiscard]] inline int lanes_for(std::size_t bytes, int most) {
  const ThreadRule& rule = thread_rule();
  if (bytes < rule.least_bytes) return 1;
  const std::size_t lanes = std::min(bytes / rule.bytes_each, static_cast<std::size_t>(most));
  return std::max(static_cast<int>(lanes), 1);
}

/// A thread for each lane is the quickest where each has a processor. Where others want these, fewer threads
/// are, which carry several lanes each: in the end the caller alone. So it is learnt: all, unless fewer took
/// clearly less; and now and then half or twice as many as it is, on all ranks in the same call. No result
/// depends on it, so ranks need not agree.
class ThreadCount {
 public:
  /// `most`: of this rank; `kinds`: Work::kind is below it.
  ThreadCount(int most, std::size_t kinds) : most_(most) {
    while (steps_ < most_steps - 1 && at(steps_ - 1) < most) ++steps_;
    if (most > 1) known_.resize(kinds * sizes);
  }

  /// What costs alike: calls of one kind and about one size.
  struct Work {
    std::size_t kind = 0;
    std::size_t bytes = 0;
  };

  /// For the team's next call of that work, which has `lanes`, from 2 to the most.
  [[nodiscard]] int choose(const Work& work, int lanes) {
    Known& known = known_[index(work)];
    const int last = step_of(lanes);
    const int best = best_step(known, last);
    const std::size_t turn = ++known.calls;
    if (turn % trial_period != 0) return std::min(at(best), lanes);
    const int other = turn / trial_period % 2 == 0 ? best + 1 : best - 1;
    return std::min(at(std::clamp(other, 0, last)), lanes);
  }

  /// What that call took, without its waits for other ranks.
  void note(const Work& work, int threads, std::uint64_t cost) {
    auto& known = known_[index(work)].costs[static_cast<std::size_t>(step_of(threads))];
    if (known == 0 || cost < known)
      known = cost;
    else  // interruptions must not count for much, and a change of the machine must be noticed
      known += (std::min(cost, 2 * known) - known) / 4;
  }

 private:
  static constexpr int most_steps = 10;
  static constexpr std::size_t trial_period = 16;
  static constexpr std::size_t sizes = 65;
  struct Known {
    std::array<std::uint64_t, most_steps> costs{};  ///< by step; 0: not known
    std::size_t calls = 0;
  };

  /// 1, 2, 4, ..., the most.
  [[nodiscard]] int at(int step) const { return std::min(1 << step, most_); }
  [[nodiscard]] static std::size_t index(const Work& work) {
    return work.kind * sizes + static_cast<std::size_t>(std::bit_width(work.bytes));
  }
  [[nodiscard]] int step_of(int threads) const {
    int step = 0;
    while (at(step) < threads) ++step;
    return step;
  }
  /// The last one, unless another took a quarter less.
  [[nodiscard]] static int best_step(const Known& known, int last) {
    int best = last;
    std::uint64_t least = known.costs[static_cast<std::size_t>(last)] / 4 * 3;
    for (int step = last - 1; step >= 0; --step) {
      const std::uint64_t cost = known.costs[static_cast<std::size_t>(step)];
      if (cost == 0 || cost >= least) continue;
      best = step;
      least = cost;
    }
    return best;
  }

  int most_;
  int steps_ = 1;
  std::vector<Known> known_;
};

}  // namespace mixcomm::cpu
