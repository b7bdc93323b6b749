// Barriers among the members of one team: flags in shared memory, a short spin, then a futex. No wait is
// unbounded.
#pragma once

#include <cstdint>
#include <span>

#include "cpu/shared_state.hpp"
#include "death_watch.hpp"
#include "mixcomm/bootstrap.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm::cpu {

/// What the channels of one rank's communicator share.
struct ChannelShared {
  std::span<RankState* const> ranks;  ///< by rank
  Failure* failure = nullptr;
  const DeathWatch* watch = nullptr;
  Milliseconds timeout = default_timeout;
  int rank = 0;
  int tp = 1;
  int spins = 0;   ///< how often to look before giving up the processor
  int yields = 0;  ///< how often to give it up before sleeping
  bool check_agreement = true;
};

/// One team kind of one rank. Points are counted per team, so teams need not keep step with each other.
class Channel {
 public:
  Channel(const ChannelShared& shared, TeamKind kind, const Team& team)
      : shared_(&shared), kind_(kind), team_(team) {}

  /// Every member has come to this point of the same call, and sees what the others wrote before it. Throws
  /// Timeout, PeerGone or Disagreement, and the communicator is failed.
  void barrier(const CallRecord& call, std::uint32_t call_hash);

 private:
  [[nodiscard]] Flag& flag(int member) const;
  [[nodiscard]] Bell& bell() const;
  [[nodiscard]] bool arrived(int member) const;
  /// The ranks of the members that have not.
  [[nodiscard]] RankSet missing() const;
  /// For whom those ranks wait, if they do, and so on: who is to blame, not who is waited for first.
  [[nodiscard]] RankSet behind(RankSet late) const;
  /// Those whom a rank that sleeps waits for; none if it is awake.
  [[nodiscard]] RankSet awaited_by(int rank) const;
  /// The first member at or after `from` (counted from my successor, cyclically) that has not arrived, or
  /// team size.
  [[nodiscard]] int first_missing(int from) const;
  void wait(const CallRecord& call);
  void sleep_until_all_arrived(const CallRecord& call);
  void check_calls_agree(const CallRecord& call) const;
  void look_for_disagreement(const CallRecord& call) const;
  /// Throws PeerGone if a member that has not arrived never will.
  void look_for_dead(const CallRecord& call) const;
  /// Throws, unless all have arrived meanwhile.
  void fail_timeout(const CallRecord& call) const;
  /// The user of this rank ends its wait, and with it the communicator.
  void fail_interrupted(const CallRecord& call) const;
  [[noreturn]] void fail_disagreement(const CallRecord& mine, const CallRecord& theirs, int rank) const;
  void ring_all() const;

  const ChannelShared* shared_;
  TeamKind kind_;
  Team team_;
  std::uint32_t point_ = 0;
  std::uint32_t hash_ = 0;
};

}  // namespace mixcomm::cpu
