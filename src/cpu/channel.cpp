#include "cpu/channel.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>

#include <algorithm>
#include <bit>
#include <thread>

#include "cpu/wait.hpp"
#include "failure_text.hpp"
#include "futex.hpp"
#include "mixcomm/error.hpp"
#include "mixcomm/interrupt.hpp"

namespace mixcomm::cpu {
namespace {

using Clock = std::chrono::steady_clock;

void ring(Bell& bell) {
  bell.rings.fetch_add(1);
  futex_wake_all(bell.rings);
}

constexpr std::uint64_t pack(std::uint32_t point, std::uint32_t hash) {
  return point | static_cast<std::uint64_t>(hash) << 32U;
}
constexpr std::uint32_t point_of(std::uint64_t flag) {
  return static_cast<std::uint32_t>(flag);
}
constexpr std::uint32_t hash_of(std::uint64_t flag) {
  return static_cast<std::uint32_t>(flag >> 32U);
}

}  // namespace

Lane& Channel::lane_of(int rank) const {
  return shared_->ranks[static_cast<std::size_t>(rank)]->lanes[static_cast<std::size_t>(lane_)];
}

Flag& Channel::flag(int member) const {
  return lane_of(team_.rank(member)).flags[static_cast<std::size_t>(kind_)];
}

Bell& Channel::bell() const {
  return lane_of(team_.first).bells[static_cast<std::size_t>(kind_)];
}

bool Channel::arrived(int member) const {
  // Points wrap around; members are never more than one apart.
  return static_cast<std::int32_t>(point_of(flag(member).value.load()) - point_) >= 0;
}

RankSet Channel::missing() const {
  RankSet set = 0;
  for (int m = 0; m < team_.size; ++m)
    if (m != team_.member && !arrived(m)) set |= just(team_.rank(m));
  return set;
}

RankSet Channel::awaited_by(int rank) const {
  const auto& ranks = shared_->ranks;
  const std::uint32_t on = ranks[static_cast<std::size_t>(rank)]->sleeps_on.load();
  if (on == 0 || on > static_cast<std::uint32_t>(team_kinds * shared_->lanes)) return 0;
  const auto kind = static_cast<TeamKind>((on - 1) % team_kinds);
  const std::size_t lane = (on - 1) / team_kinds;
  const auto world = static_cast<int>(ranks.size());
  const Team team = grid_of(Grid::of(shared_->tp, world / shared_->tp, rank), kind).world;
  const auto point = [&](int member) {
    const Lane& of_member = ranks[static_cast<std::size_t>(team.rank(member))]->lanes[lane];
    return point_of(of_member.flags[static_cast<std::size_t>(kind)].value.load());
  };
  RankSet awaited = 0;
  for (int m = 0; m < team.size; ++m)
    if (static_cast<std::int32_t>(point(m) - point(team.member)) < 0) awaited |= just(team.rank(m));
  return awaited;
}

RankSet Channel::behind(RankSet late) const {
  RankSet to_blame = 0;
  RankSet seen = late | just(shared_->rank);
  for (RankSet next = late; next != 0;) {
    RankSet further = 0;
    for (const int rank : ranks_in(next)) {
      const RankSet awaited = awaited_by(rank);
      if (awaited == 0) to_blame |= just(rank);
      further |= awaited;
    }
    next = further & ~seen;
    seen |= further;
  }
  return to_blame != 0 ? to_blame : late;  // in a circle nobody is to blame more than others
}

int Channel::first_missing(int from) const {
  for (int i = from; i < team_.size; ++i)
    if (!arrived((team_.member + i) % team_.size)) return i;
  return team_.size;
}

void Channel::arrive(std::uint32_t call_hash) {
  ++point_;
  hash_ = call_hash;
  if (team_.size == 1) return;
  Flag& mine = flag(team_.member);
  mine.processor.store(sched_getcpu(), std::memory_order_relaxed);
  mine.value.store(pack(point_, hash_));
  // Sequentially consistent with the sleeper's increment: either it sees this flag, or this rank sees the
  // sleeper.
  if (bell().sleepers.load() > 0 && first_missing(1) == team_.size) ring(bell());
}

void Channel::meet(const CallRecord& call) {
  if (team_.size == 1) return;
  wait(call);
  // A rank that was late must not go on writing to ranks that have given up.
  if (shared_->failure->state.load(std::memory_order_relaxed) != 0) shared_->failure->rethrow();
  if (shared_->check_agreement) check_calls_agree(call);
}

bool Channel::has_met(int spins) const {
  int next = 1;
  return team_.size == 1 ||
         (spin(spins, next) && shared_->failure->state.load(std::memory_order_relaxed) == 0 &&
          (!shared_->check_agreement || first_disagreeing() == team_.size));
}

bool Channel::spin(int spins, int& next) const {
  const int here = sched_getcpu();
  for (int i = 0; i < spins; ++i) {
    next = first_missing(next);
    if (next == team_.size) return true;
    // A rank that shares this processor cannot come while this one looks out for it.
    if (flag((team_.member + next) % team_.size).processor.load(std::memory_order_relaxed) == here) break;
    pause();
  }
  return false;
}

void Channel::wait(const CallRecord& call) {
  int next = 1;
  if (spin(shared_->spins, next)) return;
  // Where other programs want the processor, each time may take milliseconds.
  const auto yield_until = Clock::now() + std::chrono::milliseconds(2);
  for (int i = 0; i < shared_->yields && Clock::now() < yield_until; ++i) {
    next = first_missing(next);
    if (next == team_.size) return;
    std::this_thread::yield();
  }
  if (first_missing(next) == team_.size) return;
  sleep_until_all_arrived(call);
}

void Channel::sleep_until_all_arrived(const CallRecord& call) {
  struct Sleeper {
    Sleeper(Bell& b, std::atomic<std::uint32_t>& on, std::uint32_t me) : bell(b), sleeps_on(on), mine(me) {
      bell.sleepers.fetch_add(1);
      sleeps_on.store(mine, std::memory_order_relaxed);
    }
    ~Sleeper() {
      std::uint32_t named = mine;  // another lane may still sleep
      sleeps_on.compare_exchange_strong(named, 0, std::memory_order_relaxed);
      bell.sleepers.fetch_sub(1);
    }
    Sleeper(const Sleeper&) = delete;
    Sleeper& operator=(const Sleeper&) = delete;
    Bell& bell;
    std::atomic<std::uint32_t>& sleeps_on;
    std::uint32_t mine;
  } sleeper(bell(), shared_->ranks[static_cast<std::size_t>(shared_->rank)]->sleeps_on,
            1 + static_cast<std::uint32_t>(kind_) + static_cast<std::uint32_t>(team_kinds * lane_));

  // Rings are never lost; the slices are for a peer that was killed, or that is in another call.
  constexpr std::chrono::milliseconds slice{10};
  const auto deadline = Clock::now() + shared_->timeout;
  for (bool first = true;; first = false) {
    const std::uint32_t rings = sleeper.bell.rings.load();
    if (first_missing(1) == team_.size) return;
    shared_->failure->rethrow();
    if (interrupted()) fail_interrupted(call);
    if (!first) {
      if (shared_->check_agreement) look_for_disagreement(call);
      look_for_dead(call);
    }
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) fail_timeout(call);
    futex_wait(sleeper.bell.rings, rings, std::min<std::chrono::nanoseconds>(left, slice));
  }
}

int Channel::first_disagreeing() const {
  for (int i = 1; i < team_.size; ++i) {
    const int member = (team_.member + i) % team_.size;
    const std::uint64_t theirs = flag(member).value.load(std::memory_order_relaxed);
    // A member that is past this point has itself compared its call with mine.
    if (point_of(theirs) == point_ && hash_of(theirs) != hash_) return member;
  }
  return team_.size;
}

void Channel::check_calls_agree(const CallRecord& call) const {
  const int member = first_disagreeing();
  if (member == team_.size) return;
  CallRecord record;
  const int rank = team_.rank(member);
  const CallLog& log = shared_->ranks[static_cast<std::size_t>(rank)]->calls;
  if (!log.read(log.latest.load(std::memory_order_acquire), record)) record.number = 0;
  fail_disagreement(call, record, rank);
}

void Channel::look_for_disagreement(const CallRecord& call) const {
  for (int i = 1; i < team_.size; ++i) {
    const int member = (team_.member + i) % team_.size;
    if (arrived(member)) continue;
    const int rank = team_.rank(member);
    const CallLog& log = shared_->ranks[static_cast<std::size_t>(rank)]->calls;
    CallRecord record;
    const std::uint64_t latest = log.latest.load(std::memory_order_acquire);
    if (latest < call.number) continue;  // late
    const bool readable = log.read(call.number, record);
    if (readable && record.hash() == hash_) continue;  // in this call, not at this point yet
    if (arrived(member)) continue;                     // it came meanwhile, and went on
    if (!readable) record.number = 0;
    fail_disagreement(call, record, rank);
  }
}

void Channel::ring_all() const {
  for (RankState* state : shared_->ranks)
    for (int lane = 0; lane < shared_->lanes; ++lane)
      for (Bell& each : state->lanes[static_cast<std::size_t>(lane)].bells) ring(each);
}

void Channel::look_for_dead(const CallRecord& call) const {
  RankSet dead = shared_->watch->dead(missing());
  dead &= missing();  // one that arrived, and then ended, is waited for no longer
  if (dead == 0) return;
  // Whoever goes on without these needs to know of all that are gone.
  dead |= shared_->watch->dead(first_ranks(static_cast<int>(shared_->ranks.size())));
  shared_->failure->record(Failure::Kind::gone, gone_text(shared_->rank, ranks_in(dead), call.describe()),
                           dead);
  ring_all();
  shared_->failure->rethrow();
}

void Channel::fail_timeout(const CallRecord& call) const {
  const RankSet late = missing();
  if (late == 0) return;  // the last one came just now
  const RankSet to_blame = behind(late);
  std::string where = call.describe();
  if (to_blame != late)
    where += fmt::format(", through rank{} {}, waiting as well", std::popcount(late) == 1 ? "" : "s",
                         fmt::join(ranks_in(late), ", "));
  shared_->failure->record(Failure::Kind::timeout,
                           timeout_text(shared_->rank, shared_->timeout, ranks_in(to_blame), where) +
                               unseen_text(ranks_in(shared_->watch->unseen(to_blame))),
                           to_blame);
  ring_all();
  shared_->failure->rethrow();
}

void Channel::fail_interrupted(const CallRecord& call) const {
  shared_->failure->record(Failure::Kind::timeout,
                           fmt::format("rank {} was interrupted by its user while it waited in {}",
                                       shared_->rank, call.describe()),
                           std::uint64_t{1} << static_cast<unsigned>(shared_->rank));
  ring_all();
  shared_->failure->rethrow();
}

void Channel::fail_disagreement(const CallRecord& mine, const CallRecord& theirs, int rank) const {
  const std::string other = theirs.number == 0 ? std::string("a different call") : theirs.describe();
  shared_->failure->record(Failure::Kind::disagreement,
                           disagreement_text(rank, other, shared_->rank, mine.describe()), 0);
  ring_all();
  shared_->failure->rethrow();
  std::abort();  // not reached: rethrow() finds what was recorded
}

}  // namespace mixcomm::cpu
