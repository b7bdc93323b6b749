#include "cpu/thread_team.hpp"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu/shared_state.hpp"
#include "cpu/wait.hpp"
#include "futex.hpp"

namespace mixcomm::cpu {
namespace {

using Clock = std::chrono::steady_clock;

/// How often a helper looks for work, some 5 us, before it gives up its processor in between; for how long it
/// goes on with that, before it sleeps: about as long as libgomp's threads, since what an engine computes
/// between two large operations takes milliseconds, and helpers that sleep come 80 us late. Who takes over
/// the processor has it for as long as the system says.
constexpr int looks = 100;
constexpr std::chrono::microseconds awake{10'000};
/// ... where there are fewer processors than threads.
constexpr std::chrono::microseconds briefly_awake{50};

/// A slot's state: the number of the run, and what has become of its piece.
enum class Phase : std::uint64_t { done, open, taken, ends };
constexpr std::uint64_t state_of(std::uint64_t run, Phase phase) {
  return run << 2U | static_cast<std::uint64_t>(phase);
}
constexpr Phase phase_of(std::uint64_t state) {
  return static_cast<Phase>(state & 3U);
}

}  // namespace

/// Two lines of its own. Its caller opens it, whoever takes the piece says when it is done.
struct alignas(line_bytes) ThreadTeam::Slot {
  std::atomic<std::uint64_t> state{state_of(0, Phase::done)};
  std::atomic<std::uint32_t> sleeps{0};  ///< its helper sleeps on it while it is 1

  [[nodiscard]] Phase phase() const { return phase_of(state.load()); }
  /// For its helper.
  [[nodiscard]] bool calls() const { return phase() == Phase::open || phase() == Phase::ends; }
  /// False if another has it.
  [[nodiscard]] bool take() {
    std::uint64_t now = state.load(std::memory_order_relaxed);
    return phase_of(now) == Phase::open &&
           state.compare_exchange_strong(now, now + 1, std::memory_order_acq_rel);
  }
  /// By who took it.
  void finish() { state.store(state.load(std::memory_order_relaxed) - 2, std::memory_order_release); }
};
static_assert(static_cast<int>(Phase::open) + 1 == static_cast<int>(Phase::taken) &&
              static_cast<int>(Phase::taken) - 2 == static_cast<int>(Phase::done));

struct ThreadTeam::Shared {
  std::array<Slot, most_threads> slots;  ///< the first is the caller's own: not used
  alignas(line_bytes) std::atomic<int> sleepers{0};
  std::atomic<int> wanted{0};  ///< pieces, when helpers were woken last
  std::atomic<bool> shares{false};
  Job job;
  std::vector<std::thread> helpers;

  /// Helper i is woken by helper i / 2 if that one sleeps, too: the caller would take a microsecond or two
  /// for each.
  void wake(int helper) {
    Slot& slot = slots[static_cast<std::size_t>(helper)];
    if (slot.sleeps.load() != 0 && slot.sleeps.exchange(0) != 0) futex_wake_all(slot.sleeps);
  }
  void wake_for(int pieces) {
    wanted.store(pieces, std::memory_order_relaxed);
    for (int i = pieces - 1; i > 0; --i)
      if (i == 1 || slots[static_cast<std::size_t>(i / 2)].sleeps.load() == 0) wake(i);
  }
  void wake_next(int helper) {
    const int pieces = wanted.load(std::memory_order_relaxed);
    for (int i = 2 * helper; i < std::min(2 * helper + 2, pieces); ++i) wake(i);
  }

  void help(int helper);
  /// Whether the slot was opened, or ended, before it was time to sleep.
  [[nodiscard]] bool look_out(const Slot& slot) const;
  void sleep(Slot& slot);
};

std::shared_ptr<ThreadTeam> ThreadTeam::of_this_thread() {
  static thread_local std::weak_ptr<ThreadTeam> mine;
  auto team = mine.lock();
  if (!team) {
    team = std::make_shared<ThreadTeam>();
    mine = team;
  }
  return team;
}

ThreadTeam::ThreadTeam() : shared_(std::make_unique<Shared>()), usable_{}, process_(getpid()) {
  sched_getaffinity(0, sizeof(usable_), &usable_);
}

ThreadTeam::~ThreadTeam() {
  if (getpid() != process_) {  // a forked child: what it has of the threads can only be left
    (void)shared_.release();
    return;
  }
  for (int i = 1; i <= made_; ++i) {
    Slot& slot = shared_->slots[static_cast<std::size_t>(i)];
    slot.state.store(state_of(runs_, Phase::ends));
    shared_->wake(i);
  }
  for (std::thread& helper : shared_->helpers) helper.join();
}

void ThreadTeam::share_processors() {
  shared_->shares.store(true, std::memory_order_relaxed);
}

bool ThreadTeam::Shared::look_out(const Slot& slot) const {
  const bool leaves = shares.load(std::memory_order_relaxed);
  for (int i = 0; i < (leaves ? 1 : looks); ++i) {
    if (slot.calls()) return true;
    pause();
  }
  const auto until = Clock::now() + (leaves ? briefly_awake : awake);
  while (Clock::now() < until) {
    if (slot.calls()) return true;
    std::this_thread::yield();
  }
  return false;
}

void ThreadTeam::Shared::sleep(Slot& slot) {
  // Sequentially consistent with the end: either it sees the sleeper, or the sleeper sees it. A run may miss
  // one that is about to sleep: then its piece is the caller's, and the next run wakes it.
  slot.sleeps.store(1);
  sleepers.fetch_add(1);
  if (!slot.calls()) futex_wait(slot.sleeps, 1, std::chrono::hours(1));
  slot.sleeps.store(0);
  sleepers.fetch_sub(1);
}

void ThreadTeam::Shared::help(int helper) {
  Slot& slot = slots[static_cast<std::size_t>(helper)];
  for (;;) {
    while (!look_out(slot)) {
      sleep(slot);
      wake_next(helper);
    }
    if (slot.phase() == Phase::ends) return;
    if (!slot.take()) continue;  // the caller has it
    job.call(job.piece, helper);
    slot.finish();
  }
}

void ThreadTeam::need(int pieces) {
  if (made_ >= pieces - 1 || !may_make_ || getpid() != process_) return;
  // Signals are for the threads of the program.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    while (made_ < pieces - 1) {
      const int next = made_ + 1;
      shared_->helpers.emplace_back([shared = shared_.get(), next] { shared->help(next); });
      const pthread_t helper = shared_->helpers.back().native_handle();
      pthread_setname_np(helper, "mixcomm");
      pthread_setaffinity_np(helper, sizeof(usable_), &usable_);
      made_ = next;
    }
  } catch (const std::system_error&) {
    may_make_ = false;  // the caller does what these would have done
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void ThreadTeam::rouse(int pieces) {
  if (shared_->sleepers.load(std::memory_order_relaxed) > 0) shared_->wake_for(pieces);
}

void ThreadTeam::run_pieces(int pieces, const Job& job) {
  if (pieces <= 1 || busy_.test_and_set(std::memory_order_acquire)) {
    for (int i = 0; i < pieces; ++i) job.call(job.piece, i);
    return;
  }
  need(pieces);
  Shared& shared = *shared_;
  shared.job = job;
  ++runs_;
  const auto slot = [&](int i) -> Slot& { return shared.slots[static_cast<std::size_t>(i)]; };
  for (int i = 1; i < pieces; ++i)
    slot(i).state.store(state_of(runs_, Phase::open), std::memory_order_release);
  rouse(pieces);
  job.call(job.piece, 0);
  for (int i = pieces - 1; i > 0; --i) {
    if (!slot(i).take()) continue;
    job.call(job.piece, i);
    slot(i).finish();
  }
  for (int i = 1; i < pieces; ++i) {
    for (int look = 0; slot(i).phase() != Phase::done; ++look) {
      // It is being done; if its helper has lost its processor, it may want this one.
      if (look < (shared.shares.load(std::memory_order_relaxed) ? 10 : 2000))
        pause();
      else
        std::this_thread::yield();
    }
  }
  busy_.clear(std::memory_order_release);
}

}  // namespace mixcomm::cpu
