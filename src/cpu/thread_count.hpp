// With how many threads a pass copies and sums: as many as its size pays for on this machine, at this moment.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mixcomm::cpu {

/// From which size on threads are tried. Tests set it lower, so that small tensors have helpers, too.
struct ThreadRule {
  std::size_t least_bytes = std::size_t{64} << 10U;  ///< passes of fewer are the caller's alone
  std::size_t bytes_each = std::size_t{16} << 10U;   ///< what a thread gets until it is known better
};
inline ThreadRule& thread_rule() {
  static ThreadRule rule;
  return rule;
}

/// Handing pieces out and waiting for the last takes a microsecond or two, more where helpers sleep, and
/// threads beyond what memory can feed add nothing. How much, depends on the machine and on who else wants
/// its processors. So it is learnt: passes run with the number that took least, and now and then with half or
/// twice as many, on all ranks in the same pass. No result depends on it, so ranks need not agree.
class ThreadCount {
 public:
  /// `most`: of this rank; `kinds`: Work::kind is below it.
  ThreadCount(int most, std::size_t kinds) : most_(most), rule_(thread_rule()) {
    while (steps_ < most_steps - 1 && at(steps_ - 1) < most) ++steps_;
    if (most > 1) costs_.resize(kinds * sizes);
  }

  /// What costs alike: passes of one kind and about one size.
  struct Work {
    std::size_t kind = 0;
    std::size_t bytes = 0;
  };

  /// Whether anything of that size may be shared out.
  [[nodiscard]] bool is_shared(std::size_t bytes) const { return most_ > 1 && bytes >= rule_.least_bytes; }

  /// For pass number `pass` of a team.
  [[nodiscard]] int choose(const Work& work, std::size_t pass) const {
    if (!is_shared(work.bytes)) return 1;
    const int best = best_step(work);
    if (pass % trial_period != trial_period / 2) return at(best);
    const int other = pass / trial_period % 2 == 0 ? best + 1 : best - 1;
    return at(std::clamp(other, 0, steps_ - 1));
  }

  /// What a pass took, without its waits.
  void note(const Work& work, int threads, std::uint64_t cost) {
    if (!is_shared(work.bytes)) return;
    int step = 0;
    while (at(step) < threads) ++step;
    auto& known = costs_[index(work)][static_cast<std::size_t>(step)];
    if (known == 0 || cost < known)
      known = cost;
    else  // interruptions must not count for much, and a change of the machine must be noticed
      known += (std::min(cost, 2 * known) - known) / 4;
  }

 private:
  static constexpr int most_steps = 10;
  static constexpr std::size_t trial_period = 16;
  static constexpr std::size_t sizes = 65;
  using Costs = std::array<std::uint64_t, most_steps>;  ///< by step; 0: not known

  /// 1, 2, 4, ..., the most.
  [[nodiscard]] int at(int step) const { return std::min(1 << step, most_); }
  [[nodiscard]] static std::size_t index(const Work& work) {
    return work.kind * sizes + static_cast<std::size_t>(std::bit_width(work.bytes));
  }
  [[nodiscard]] int best_step(const Work& work) const {
    const Costs& costs = costs_[index(work)];
    int best = -1;
    for (int step = 0; step < steps_; ++step) {
      const std::uint64_t cost = costs[static_cast<std::size_t>(step)];
      if (cost != 0 && (best < 0 || cost < costs[static_cast<std::size_t>(best)])) best = step;
    }
    if (best >= 0) return best;
    int step = 0;
    while (step < steps_ - 1 && work.bytes > static_cast<std::size_t>(at(step)) * rule_.bytes_each) ++step;
    return step;
  }

  int most_;
  ThreadRule rule_;
  int steps_ = 1;
  std::vector<Costs> costs_;
};

}  // namespace mixcomm::cpu
