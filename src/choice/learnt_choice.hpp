// Which algorithm `automatic` runs where no rule knows: what took least on this machine, at this moment,
// agreed by the ranks of a team.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "choice/announcements.hpp"
#include "mixcomm/operation.hpp"

namespace mixcomm {

/// What a member of a team says, in memory that all of them share, zeroed at first.
struct LearningNotes {
  /// The first member: what changes.
  Announcements::Board changes;
  /// Each member: what the call took on it, by the parity of the call in which it is written.
  alignas(128) std::array<std::atomic<std::uint64_t>, 2> took{};
};

/// The team's first member decides (Announcements). What it reads before call n is what call n - 2 took on
/// the slowest member: by then all have written it.
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

  /// What an algorithm took in its last calls. Each varies by more than algorithms differ, and an
  /// interruption takes hundreds of times as long: so the median counts. The first ones find memory and
  /// caches cold: of them the quickest.
  struct Costs {
    std::array<std::uint64_t, 17> last{};
    std::uint32_t heard = 0;
    std::uint64_t typical = 0;  ///< 0: not known
    void hear(std::uint64_t cost);
  };
  struct Known {
    std::uint32_t calls = 0;                ///< of this work
    std::array<Costs, algorithms> costs{};  ///< by algorithm
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
  void learn(const Ran& ran);

  std::vector<LearningNotes*> notes_;
  int member_;
  Announcements announcements_;
  std::array<Ran, 2> ran_;       ///< the last ones, by parity
  std::vector<Algorithm> runs_;  ///< by work; automatic: the first candidate
  std::vector<Known> known_;     ///< by work, of the first member alone, which decides
};

}  // namespace mixcomm
