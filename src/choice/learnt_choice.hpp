// Which algorithm `automatic` runs where no rule knows: what took least on this machine, at this moment,
// agreed by the ranks of a team.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "mixcomm/operation.hpp"

namespace mixcomm {

/// Where the first member of a team says what changes; in memory that all of them share, zeroed at first.
struct Announcements {
  std::array<std::atomic<std::uint64_t>, 2> at{};  ///< by the parity of the call in which it was written
};

/// Ranks must run the same algorithm, and none can wait to be told. So the team's first member measures, and
/// decides for later calls: what it writes before it enters call n holds from call n + 1 on, and every member
/// reads it there. It is there by then, because call n has a meeting that the first member enters after it
/// has written; and it is not overwritten before all have read, because that happens before call n + 2, for
/// which the first member must have met all in call n + 1. While nothing changes, nothing is written, and the
/// line stays in everyone's cache.
///
/// Only algorithms that give the same bits are candidates, so results do not depend on what is learnt.
class LearntChoice {
 public:
  /// What costs alike: one operation on one kind of memory, of about one size. The same on all members.
  struct Work {
    Op op = Op::all_reduce;
    bool symmetric = false;
    std::size_t bytes = 0;
  };
  static constexpr std::size_t most_candidates = 3;

  /// `decides`: this is the team's first member.
  LearntChoice(Announcements& announcements, bool decides);

  /// For the next call of the team, which must have a meeting of all its members: which of the candidates
  /// (the same on all members, the first one until it is known better) to run.
  [[nodiscard]] Algorithm begin(const Work& work, std::span<const Algorithm> candidates);
  /// What that call took.
  void note(const Work& work, Algorithm algorithm, std::uint64_t cost);

 private:
  static constexpr std::size_t ops = 5;
  static constexpr std::size_t sizes = 65;
  static constexpr std::size_t algorithms = 5;
  static constexpr std::uint32_t first_calls = 3;    ///< of each candidate, to begin with
  static constexpr std::uint32_t trial_period = 64;  ///< then two calls in so many are of another one

  struct Known {
    Algorithm runs = Algorithm::automatic;         ///< automatic: the first candidate
    std::uint32_t calls = 0;                       ///< of this work
    std::array<std::uint64_t, algorithms> cost{};  ///< by algorithm; 0: not known
  };
  static std::size_t index(const Work& work);
  /// What the call after this one is to run.
  [[nodiscard]] static Algorithm next(const Known& known, std::span<const Algorithm> candidates);

  Announcements& announcements_;
  bool decides_;
  std::uint32_t calls_ = 0;  ///< of the team, modulo 2^32
  std::vector<Known> known_;
};

}  // namespace mixcomm
