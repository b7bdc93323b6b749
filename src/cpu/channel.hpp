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
  int lanes = 1;   ///< how many there are
  bool check_agreement = true;
};

/// One lane of one team kind of one rank: what one thread of it meets others with. Points are counted per
/// lane, so neither teams nor lanes need keep step with each other.
class Channel {
 public:
  Channel(const ChannelShared& shared, TeamKind kind, int lane, const Team& team)
      : shared_(&shared), kind_(kind), lane_(lane), team_(team) {}

  /// Every member has come to this point of the same call, and sees what the others wrote before it. Throws
  /// Timeout, PeerGone or Disagreement, and the communicator is failed.
  void barrier(const CallRecord& call, std::uint32_t call_hash) {
    arrive(call_hash);
    meet(call);
  }

  // In two halves:

  /// What this rank wrote before is there for those who meet it.
  void arrive(std::uint32_t call_hash);
  /// All have arrived. Throws as barrier() does.
  void meet(const CallRecord& call);
  /// Whether all have arrived, and nothing is wrong: else meet() says what. It looks `spins` times at most.
  [[nodiscard]] bool has_met(int spins) const;

 private:
  [[nodiscard]] Lane& lane_of(int rank) const;
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
  /// Looks out for those that have not arrived, from `next` on, so many times. Whether all have.
  [[nodiscard]] bool spin(int spins, int& next) const;
  void wait(const CallRecord& call);
  void sleep_until_all_arrived(const CallRecord& call);
  /// A member that is at this point in another call; none, or one that has gone on: team size.
  [[nodiscard]] int first_disagreeing() const;
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
  int lane_;
  Team team_;
  std::uint32_t point_ = 0;
  std::uint32_t hash_ = 0;
};

}  // namespace mixcomm::cpu
