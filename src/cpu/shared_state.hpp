// What ranks on one host share besides data: flags, calls, and the failure of the communicator.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "call_record.hpp"
#include "choice/learnt_choice.hpp"
#include "rank_set.hpp"

namespace mixcomm::cpu {

/// Two cache lines: processors fetch them in pairs.
inline constexpr std::size_t line_bytes = 128;

/// One rank's flag on one team kind, in one lane. Low half: how many points (barriers) it has reached. High
/// half: the hash of the call it is in. Written by one thread of that rank at a time.
struct alignas(line_bytes) Flag {
  std::atomic<std::uint64_t> value{0};
  std::atomic<int> processor{0};  ///< where the rank ran when it wrote `value`
};

/// Where the members of one team sleep; that of the team's first rank is used. The last rank to arrive rings.
struct alignas(line_bytes) Bell {
  std::atomic<std::uint32_t> rings{0};
  std::atomic<std::uint32_t> sleepers{0};
};

/// The calls that a rank made last, so that a peer that waits for it can tell late from wrong. Written by
/// that rank alone; each slot is taken in word by word, and valid if `number` is the same before and after.
struct alignas(line_bytes) CallLog {
  static constexpr std::size_t slots = 4;
  static constexpr std::size_t words = sizeof(CallRecord) / sizeof(std::uint64_t);
  static_assert(sizeof(CallRecord) % sizeof(std::uint64_t) == 0);
  std::array<std::array<std::atomic<std::uint64_t>, words>, slots> word{};
  std::atomic<std::uint64_t> latest{0};

  void post(const CallRecord& record);
  /// The record of call `number`; false if it has been overwritten or not been made.
  [[nodiscard]] bool read(std::uint64_t number, CallRecord& record) const;
};

/// Of a call.
inline constexpr int lanes_at_most = 128;

/// Where a thread of each rank meets that of the others which has the same lane. By team kind.
struct Lane {
  std::array<Flag, team_kinds> flags;
  std::array<Bell, team_kinds> bells;
};

/// One rank's part. The whole lies in zeroed shared memory, which is a valid initial state; of lanes that are
/// not used there is no memory.
struct RankState {
  CallLog calls;
  std::array<LearningNotes, team_kinds> learning;
  /// 1 + the team kind on which the rank sleeps, or 0: so that others do not take it for the one to blame.
  /// Lanes of the same call sleep on the same team; one of them is named: 1 + kind + team_kinds * lane.
  alignas(line_bytes) std::atomic<std::uint32_t> sleeps_on{0};
  std::array<Lane, lanes_at_most> lanes;
};

/// The first failure of the communicator, by whichever rank found it; every rank reports the same.
struct alignas(line_bytes) Failure {
  enum class Kind : std::uint32_t { none, timeout, disagreement, gone };
  std::atomic<std::uint32_t> state{0};  ///< 0 none, 1 being written, 2 there
  std::atomic<std::uint32_t> kind{0};
  std::atomic<RankSet> missing{0};
  std::array<std::atomic<char>, 1024> text{};

  /// Records a failure unless there is one already.
  void record(Kind what, const std::string& message, RankSet missing_ranks);
  /// Throws what was recorded; returns if nothing was.
  void rethrow() const;
};

}  // namespace mixcomm::cpu
