// With which stores input is staged: what measures better on this machine, at this moment, for messages of
// this size.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "cpu/kernels.hpp"

namespace mixcomm::cpu {

/// A clock that is read in a few nanoseconds; its unit is of no matter.
[[nodiscard]] inline std::uint64_t ticks() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#else
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

/// Streamed stores save taking a line back from the cache of the processor that has read it, which costs 6 ns
/// where they share a cache and 25 ns where they do not; but what they wrote comes from memory. So which are
/// better depends on where the ranks run and on the size, and virtual processors move. Both are tried: the
/// better one almost always, and the other now and then, on all ranks in the same call, because its cost
/// falls to the readers too. A rank's choice has no effect on results, so ranks need not agree.
class StagingStores {
 public:
  /// Calls that cost about the same: of one kind (which operation, algorithm and team: a number below
  /// most_kinds) and one size, rounded to a power of two.
  struct Work {
    std::size_t kind = 0;
    std::size_t bytes = 0;
  };
  static constexpr std::size_t most_kinds = 24;

  /// For the team's next call of that work.
  [[nodiscard]] Stores choose(const Work& work) {
    Known& known = known_[index(work)];
    const bool streams = known.costs[0] == 0 || known.costs[1] <= known.costs[0];
    const std::size_t call = ++known.calls;
    if (call <= first_trials) return call % 2 == 0 ? Stores::cached : Stores::streamed;
    const bool tries = call % trial_period == 0;
    return streams != tries ? Stores::streamed : Stores::cached;
  }

  /// What a call took, without its waits.
  void note(const Work& work, Stores stores, std::uint64_t cost) {
    auto& known = known_[index(work)].costs[stores == Stores::streamed ? 1 : 0];
    if (known == 0 || cost < known)
      known = cost;
    else  // interruptions must not count for much, and a change of the machine must be noticed
      known += (std::min(cost, 2 * known) - known) / 4;
  }

 private:
  struct Known {
    std::array<std::uint64_t, 2> costs{};  ///< cached, streamed; 0: not known
    std::size_t calls = 0;
  };
  static constexpr std::size_t first_trials = 6;  ///< of both in turn
  static constexpr std::size_t trial_period = 32;
  static constexpr std::size_t sizes = 65;
  static std::size_t index(const Work& work) {
    return work.kind * sizes + static_cast<std::size_t>(std::bit_width(work.bytes));
  }

  std::array<Known, most_kinds * sizes> known_{};
};

}  // namespace mixcomm::cpu
