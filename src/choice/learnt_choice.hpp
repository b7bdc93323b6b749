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

/// What one member of a team tells the others, in memory that all share and that is zero at first. Each note
/// exists twice, for calls with even and with odd numbers: one is written while the other may still be read.
struct LearningNotes {
  /// Written by the first member: what later calls are to run.
  alignas(128) std::array<std::atomic<std::uint64_t>, 2> changes{};
  /// Written by each member: how long the call took on it.
  alignas(128) std::array<std::atomic<std::uint64_t>, 2> took{};
};

/// Ranks must run the same algorithm, and none can wait to be told. So the team's first member decides for
/// later calls: what it writes before it enters call n holds from call n + 1 on, and every member reads it
/// there. It is there by then, because call n has a meeting that the first member enters after it has
/// written; and it is not overwritten before all have read it, because that happens before call n + 2, for
/// which the first member must have met all in call n + 1. In the same way it reads, before call n, what call
/// n - 2 took on the slowest member. While nothing changes nothing is announced, and the line stays in
/// everyone's cache.
///
/// Only algorithms that give the same bits are candidates, so results do not depend on what is learnt.
class LearntChoice {
 public:
  /// Calls that cost about the same: one operation, one kind of memory, one size rounded to a power of two.
  /// The same on all members.
  struct Work {
    Op op = Op::all_reduce;
    bool symmetric = false;
    std::size_t bytes = 0;
    bool epilogue = false;
  };
  static constexpr std::size_t most_candidates = 3;

  /// The notes of all members, by member, and which of them this one is.
  LearntChoice(std::vector<LearningNotes*> notes, int member);

  /// For the next call of the team, which must have a meeting of all its members: which of the candidates
  /// (the same on all members, the first one until it is known better) to run.
  [[nodiscard]] Algorithm begin(const Work& work, std::span<const Algorithm> candidates);
  /// What that call took on this member.
  void note(std::uint64_t cost);

 private:
  static constexpr std::size_t ops = 5;
  static constexpr std::size_t sizes = 65;
  static constexpr std::size_t algorithms = 5;  ///< as many as there are values
  static_assert(static_cast<std::size_t>(Algorithm::nccl) + 1 == algorithms);
  static constexpr std::uint32_t first_calls = 5;    ///< of each candidate, to begin with
  static constexpr std::uint32_t trial_period = 64;  ///< then, in each run of this many calls, ...
  static constexpr std::uint32_t trial_calls = 2;    ///< ... this many try another candidate

  struct Known {
    Algorithm runs = Algorithm::automatic;          ///< automatic: the first candidate
    std::uint32_t calls = 0;                        ///< of this work
    std::array<std::uint64_t, algorithms> cost{};   ///< by algorithm, about the median; 0: not known
    std::array<std::uint32_t, algorithms> heard{};  ///< of how many calls
  };
  /// A call of this team.
  struct Ran {
    std::size_t work = 0;
    Algorithm algorithm = Algorithm::automatic;  ///< automatic: none
  };
  static std::size_t index(const Work& work);
  /// What the call after this one is to run.
  [[nodiscard]] static Algorithm next(const Known& known, std::span<const Algorithm> candidates);

  /// Takes in what that call took on the slowest member.
  void learn(const Ran& ran, std::size_t parity);

  std::vector<LearningNotes*> notes_;
  int member_;
  std::uint32_t calls_ = 0;  ///< of the team, modulo 2^32
  std::array<Ran, 2> ran_;   ///< the last two calls, by the parity of their numbers
  std::vector<Known> known_;
};

}  // namespace mixcomm
