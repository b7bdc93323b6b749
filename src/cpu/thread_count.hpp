// In how many lanes, a thread each, a call copies and sums: as many as its size pays for on this machine, at
// this moment.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "choice/announcements.hpp"

namespace mixcomm::cpu {

/// From which size on threads are tried. Tests set it lower, so that small tensors have helpers, too.
struct ThreadRule {
  std::size_t least_bytes = std::size_t{64} << 10U;  ///< calls of fewer are the caller's alone
  std::size_t bytes_each = std::size_t{16} << 10U;   ///< what a thread gets until it is known better
};
inline ThreadRule& thread_rule() {
  static ThreadRule rule;
  return rule;
}

/// Handing lanes out and waiting for the last takes a microsecond or two, more where helpers sleep, and
/// threads beyond what memory can feed add nothing. How much, depends on the machine and on who else wants
/// its processors. So it is learnt: calls run with each number some times, then with the one that took least,
/// and now and then with half or twice as many.
class ThreadCount {
 public:
  /// `most`: that may be; `kinds`: Work::kind is below it.
  ThreadCount(int most, std::size_t kinds) : most_(most), rule_(thread_rule()) {
    while (steps_ < most_steps - 1 && at(steps_ - 1) < most) ++steps_;
    if (most > 1) known_.resize(kinds * sizes);
  }

  /// What costs alike: calls of one kind and about one size.
  struct Work {
    std::size_t kind = 0;
    std::size_t bytes = 0;
  };
  static constexpr std::size_t sizes = 65;
  /// Of a kind and size.
  [[nodiscard]] static std::size_t index(const Work& work) {
    return work.kind * sizes + static_cast<std::size_t>(std::bit_width(work.bytes));
  }

  /// Whether anything of that size may be shared out.
  [[nodiscard]] bool is_shared(std::size_t bytes) const { return most_ > 1 && bytes >= rule_.least_bytes; }

  /// What the size pays for, until it is known better.
  [[nodiscard]] int to_begin_with(std::size_t bytes) const {
    int step = 0;
    while (step < steps_ - 1 && bytes > static_cast<std::size_t>(at(step)) * rule_.bytes_each) ++step;
    return at(step);
  }

  /// For the next call.
  [[nodiscard]] int choose(const Work& work) {
    if (!is_shared(work.bytes)) return 1;
    Known& known = known_[index(work)];
    if (known.turns < first_calls * static_cast<std::size_t>(steps_)) {
      // Each number some times, what the size pays for first.
      const std::size_t i = known.turns++ / first_calls;
      const auto first = static_cast<std::size_t>(step_of(to_begin_with(work.bytes)));
      return at(static_cast<int>(i == 0 ? first : i <= first ? i - 1 : i));
    }
    const int best = best_step(known, work.bytes);
    const std::size_t turn = known.turns++;
    if (turn % trial_period != 0) return at(best);
    const std::size_t trial = turn / trial_period;
    const int other = std::clamp(trial % 2 == 0 ? best + 1 : best - 1, 0, steps_ - 1);
    // One that takes far longer is tried less often.
    const auto cost = [&](int step) { return known.cost[static_cast<std::size_t>(step)]; };
    return at(cost(other) > 2 * cost(best) && trial / 2 % 4 != 0 ? best : other);
  }

  /// What a call took, without the wait for late ranks.
  void note(const Work& work, int threads, std::uint64_t cost) {
    if (!is_shared(work.bytes)) return;
    auto& known = known_[index(work)].cost[static_cast<std::size_t>(step_of(threads))];
    if (known == 0 || cost < known)
      known = cost;
    else  // interruptions must not count for much, and a change of the machine must be noticed
      known += (std::min(cost, 2 * known) - known) / 4;
  }

 private:
  static constexpr int most_steps = 10;
  static constexpr std::size_t first_calls = 3;
  static constexpr std::size_t trial_period = 16;
  struct Known {
    std::array<std::uint64_t, most_steps> cost{};  ///< by step; 0: not known
    std::size_t turns = 0;
  };

  /// 1, 2, 4, ..., the most.
  [[nodiscard]] int at(int step) const { return std::min(1 << step, most_); }
  [[nodiscard]] int step_of(int threads) const {
    int step = 0;
    while (step < steps_ - 1 && at(step) < threads) ++step;
    return step;
  }
  [[nodiscard]] int best_step(const Known& known, std::size_t bytes) const {
    int best = -1;
    for (int step = 0; step < steps_; ++step) {
      const std::uint64_t cost = known.cost[static_cast<std::size_t>(step)];
      if (cost != 0 && (best < 0 || cost < known.cost[static_cast<std::size_t>(best)])) best = step;
    }
    return best < 0 ? step_of(to_begin_with(bytes)) : best;
  }

  int most_;
  ThreadRule rule_;
  int steps_ = 1;
  std::vector<Known> known_;
};

/// The same number on all ranks of a team: threads meet those of other ranks that have the same lane. The
/// team's first member learns it, by what calls take there, which is when all are through with its part.
class LaneCount {
 public:
  /// `board`: the team's; `first`: whether this is its first member.
  LaneCount(Announcements::Board& board, bool first, int most, std::size_t kinds)
      : announcements_(board), first_(first), count_(most, kinds) {
    if (most > 1) lanes_.resize(kinds * ThreadCount::sizes);
  }

  /// Whether a call of so many bytes is one for begin() and note(): the same on all ranks.
  [[nodiscard]] bool is_shared(std::size_t bytes) const { return count_.is_shared(bytes); }

  /// How many the team's next call has.
  [[nodiscard]] int begin(const ThreadCount::Work& work) {
    if (const auto change = announcements_.begin()) lanes_[change->work] = change->way;
    const std::size_t which = ThreadCount::index(work);
    const int lanes = lanes_[which] == 0 ? count_.to_begin_with(work.bytes) : lanes_[which];
    if (first_)
      if (const int wanted = count_.choose(work); wanted != lanes)
        announcements_.announce({which, static_cast<std::uint8_t>(wanted)});
    return lanes;
  }
  /// What that call took, without the wait for late ranks.
  void note(const ThreadCount::Work& work, int lanes, std::uint64_t cost) {
    if (first_) count_.note(work, lanes, cost);
  }

 private:
  Announcements announcements_;
  bool first_;
  ThreadCount count_;
  std::vector<std::uint8_t> lanes_;  ///< by work; 0: nothing was said
};

}  // namespace mixcomm::cpu
