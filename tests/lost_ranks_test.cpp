// Ranks that are killed, stopped or end while others wait for them, as real processes; and going on without
// them. MIXCOMM_KILLS: how often each rank is killed (2).
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <new>
#include <random>
#include <thread>

#include "death_watch.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/spawn.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

#if defined(__SANITIZE_THREAD__)
constexpr bool sees_threads_only = true;
#else
constexpr bool sees_threads_only = false;
#endif
#define SKIP_UNDER_THREAD_SANITIZER() \
  if (sees_threads_only) GTEST_SKIP() << "ThreadSanitizer sees nothing of what processes share, and is slow"

constexpr int ranks = 4;
constexpr Milliseconds deadline{10'000};
constexpr int operations = 500;

bool has_pidfd() {
  return this_process().valid();
}

int kills_of_each_rank() {
  const char* text = std::getenv("MIXCOMM_KILLS");
  return text != nullptr ? std::max(1, std::atoi(text)) : 2;
}

/// What the processes of a test write for each other and for the test. One clock counts for all.
struct Times {
  std::atomic<Clock::rep> killed{0};
  std::array<std::atomic<Clock::rep>, ranks> noticed{};
};
std::shared_ptr<Times> shared_times() {
  void* memory = mmap(nullptr, sizeof(Times), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return {new (memory) Times, [](Times* times) { munmap(times, sizeof(Times)); }};
}
Clock::rep now() {
  return Clock::now().time_since_epoch().count();
}

/// Random operations with fresh inputs, the same on every rank, each checked bit by bit.
class Operations {
 public:
  Operations(Communicator& communicator, unsigned seed)
      : cases_(verify::cases_of({.tp = communicator.grid().tp.size, .dp = communicator.grid().dp.size})),
        verifier_(communicator, verify::most_elements(cases_, communicator.grid().dp.size)),
        random_(seed) {}

  std::string next() {
    verify::Case c = cases_[random_() % cases_.size()];
    c.seed = random_();
    return verifier_.run(c);
  }

 private:
  std::vector<verify::Case> cases_;
  verify::Verifier verifier_;
  std::mt19937_64 random_;
};

CommunicatorOptions grid_of_ranks(int world, Milliseconds timeout = deadline) {
  const bool square = world % 2 == 0;
  return {.tp = square ? 2 : world,
          .dp = square ? world / 2 : 1,
          .timeout = timeout,
          .workspace_bytes = verify::workspace_bytes};
}

/// From another thread, in the middle of whatever this process does then.
void kill_this_process_in(microseconds delay, Times& times) {
  std::thread([delay, &times] {
    std::this_thread::sleep_for(delay);
    times.killed = now();
    kill(getpid(), SIGKILL);
  }).detach();
}

/// Stops this process from outside, and lets it go on after `pause`.
pid_t stop_this_process_in(microseconds delay, milliseconds pause) {
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child != 0) return child;
  usleep(static_cast<useconds_t>(delay.count()));
  kill(parent, SIGSTOP);
  usleep(static_cast<useconds_t>(microseconds(pause).count()));
  kill(parent, SIGCONT);
  _exit(0);
}

/// A bootstrap on a system that cannot tell of deaths.
class Untold final : public Bootstrap {
 public:
  explicit Untold(Bootstrap& real) : real_(real) {}
  [[nodiscard]] int rank() const override { return real_.rank(); }
  [[nodiscard]] int world() const override { return real_.world(); }
  std::vector<std::string> exchange(std::string_view step, std::string_view mine) override {
    return real_.exchange(step, mine);
  }
  std::shared_ptr<std::byte> share_memory(std::size_t bytes) override { return real_.share_memory(bytes); }
  std::vector<Fd> exchange_descriptors(std::string_view step, int mine) override {
    return real_.exchange_descriptors(step, mine);
  }
  std::span<const Fd> processes() override { return {}; }

 private:
  Bootstrap& real_;
};

std::string named(const Timeout& error, const std::vector<int>& expected) {
  return error.missing() == expected
             ? ""
             : fmt::format("ranks {} were named: {}", fmt::join(error.missing(), ", "), error.what());
}

std::string operate(Bootstrap& bootstrap, int count, unsigned seed) {
  Communicator communicator(bootstrap, grid_of_ranks(bootstrap.world()));
  Operations random(communicator, seed);
  for (int i = 0; i < count; ++i)
    if (auto wrong = random.next(); !wrong.empty()) return wrong;
  return "";
}

// --- killed

/// One rank of a job in which `victim` is killed while it makes call `at`, or a little later. What is wrong.
std::string operate_until(int victim, int at, microseconds delay, unsigned seed, Bootstrap& bootstrap,
                          Times& times) {
  Communicator communicator(bootstrap, grid_of_ranks(ranks));
  Operations random(communicator, seed);
  const int me = bootstrap.rank();
  for (int i = 1; i < at + 100'000; ++i) try {
      if (me == victim && i == at) kill_this_process_in(delay, times);
      if (auto wrong = random.next(); !wrong.empty()) return wrong;
    } catch (const Timeout& error) {
      times.noticed[static_cast<std::size_t>(me)] = now();
      // A rank may be some calls behind the victim, and fails there.
      if (times.killed == 0)
        return fmt::format("call {} failed before anybody was killed: {}", i, error.what());
      if (has_pidfd() && dynamic_cast<const PeerGone*>(&error) == nullptr)
        return std::string("it was found late: ") + error.what();
      if (auto wrong = named(error, {victim}); !wrong.empty()) return wrong;
      try {
        return random.next() + "the failed communicator worked";
      } catch (const Timeout& again) {
        return std::string(again.what()) == error.what() ? "" : "another error the second time";
      }
    }
  return "no error";
}

TEST(KilledRanks, AreNamedByAllSurvivorsAtOnce) {
  SKIP_UNDER_THREAD_SANITIZER();
  std::mt19937 random(2026);
  std::vector<double> delays_ms;
  for (int kill = 0; kill < kills_of_each_rank(); ++kill)
    for (int victim = 0; victim < ranks; ++victim) {
      const int at = 1 + static_cast<int>(random() % operations);
      const microseconds delay(random() % 400);
      const unsigned seed = random();
      const auto times = shared_times();
      const auto results = spawn(Ranks::processes, ranks, [&](Bootstrap& bootstrap) {
        return operate_until(victim, at, delay, seed, bootstrap, *times);
      });
      for (int r = 0; r < ranks; ++r) {
        const auto& result = results[static_cast<std::size_t>(r)];
        if (r == victim) {
          EXPECT_EQ(result, "killed by signal 9");
          continue;
        }
        ASSERT_EQ(result, "") << "rank " << r << ", rank " << victim << " killed in call " << at;
        const Clock::duration passed(times->noticed[static_cast<std::size_t>(r)] - times->killed);
        EXPECT_LT(passed, deadline);
        delays_ms.push_back(std::chrono::duration<double, std::milli>(passed).count());
      }
    }
  std::ranges::sort(delays_ms);
  fmt::print("from SIGKILL to a survivor's error, {} of them: median {:.1f} ms, worst {:.1f} ms ({})\n",
             delays_ms.size(), delays_ms[delays_ms.size() / 2], delays_ms.back(),
             has_pidfd() ? "pidfd" : "no pidfd here: by the deadline");
}

/// Over teams {0, 2} and {1, 3}: told at once there as well, and by the number that survivors() takes.
TEST(KilledRanks, OfATeamAreNamedByTheNumberThatTheyHaveAmongAll) {
  SKIP_UNDER_THREAD_SANITIZER();
  if (!has_pidfd()) GTEST_SKIP() << "this system has no pidfd";
  for (const int victim : {3, 0}) {
    const auto results = spawn(Ranks::processes, ranks, [&](Bootstrap& bootstrap) -> std::string {
      const int me = bootstrap.rank();
      {
        Communicators communicators(bootstrap, {.timeout = deadline});
        Communicator& team = communicators.on({.stride = 2, .tp = 2, .dp = 1});
        const float mine = static_cast<float>(me);
        float sum = 0;
        std::string text;
        for (int i = 0; i < 20; ++i) try {
            if (me == victim && i == 10) std::raise(SIGKILL);
            team.all_reduce(tensor(&mine, 1, 1), tensor(&sum, 1, 1));
            if (sum != static_cast<float>(2 * (me % 2) + 2)) return fmt::format("the sum is {}", sum);
          } catch (const PeerGone& error) {
            text = error.what();
            if (auto wrong = named(error, {victim}); !wrong.empty()) return wrong;
            if (text.find("of all)") == std::string::npos) return text;
            try {
              team.check();
              return "the failed communicator works";
            } catch (const Timeout& again) {
              if (text != again.what() || again.missing() != error.missing()) return again.what();
            }
            break;
          }
        if (text.empty() != (me % 2 != victim % 2))
          return "who shares a team with it is told, and nobody else";
      }
      const Survivors left = bootstrap.survivors(std::vector{victim});
      return left.ranks.size() == 3 ? operate(*left.bootstrap, 20, 6) : "others go on";
    });
    for (int r = 0; r < ranks; ++r)
      EXPECT_EQ(results[static_cast<std::size_t>(r)], r == victim ? "killed by signal 9" : "") << r;
  }
}

TEST(KilledRanks, AreNamedByTheDeadlineWhereNothingTellsOfTheirDeath) {
  SKIP_UNDER_THREAD_SANITIZER();
  for (const int victim : {0, 3}) {
    const auto results = spawn(Ranks::processes, ranks, [&](Bootstrap& real) -> std::string {
      Untold bootstrap(real);
      Communicator communicator(bootstrap, grid_of_ranks(ranks, milliseconds(500)));
      Operations random(communicator, 1);
      for (int i = 0; i < 20; ++i) try {
          if (real.rank() == victim && i == 10) std::raise(SIGKILL);
          if (auto wrong = random.next(); !wrong.empty()) return wrong;
        } catch (const PeerGone& error) {
          return std::string("told, though nothing tells: ") + error.what();
        } catch (const Timeout& error) {
          return named(error, {victim});
        }
      return "no error";
    });
    for (int r = 0; r < ranks; ++r)
      EXPECT_EQ(results[static_cast<std::size_t>(r)], r == victim ? "killed by signal 9" : "") << r;
  }
}

/// While communicators are made and destroyed.
TEST(KilledRanks, AreNamedInSetUp) {
  SKIP_UNDER_THREAD_SANITIZER();
  std::mt19937 random(7);
  for (int victim = 0; victim < ranks; ++victim) {
    const microseconds delay(random() % 10'000);
    const auto times = shared_times();
    const auto results = spawn(
        Ranks::processes, ranks,
        [&](Bootstrap& bootstrap) -> std::string {
          if (bootstrap.rank() == victim) kill_this_process_in(delay, *times);
          for (int i = 0; i < 100'000; ++i) try {
              Communicator communicator(bootstrap, grid_of_ranks(ranks));
              (void)communicator.allocate(4096);
            } catch (const Timeout& error) {
              return named(error, {victim});
            }
          return "no error";
        },
        milliseconds(3000));
    for (int r = 0; r < ranks; ++r)
      EXPECT_EQ(results[static_cast<std::size_t>(r)], r == victim ? "killed by signal 9" : "") << r;
  }
}

// --- ended, stopped

/// Ranks 2 and 3 end after their last call, which concerns the others only when they wait for them.
TEST(EndedRanks, AreNoFailureUntilSomebodyWaitsForThem) {
  if (!has_pidfd()) GTEST_SKIP() << "this system has no pidfd";
  const auto results = spawn(Ranks::processes, ranks, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, grid_of_ranks(ranks));
    std::vector<float> data(8, 1.0F);
    std::vector<float> all(16);
    const auto in = tensor(std::as_const(data).data(), 1, 8);
    communicator.all_reduce_all_gather(in, tensor(all.data(), 2, 8), 1);
    if (bootstrap.rank() >= 2) return "";
    for (int i = 0; i < 4; ++i) {
      if (bootstrap.rank() == i % 2) std::this_thread::sleep_for(milliseconds(100));  // the other one looks
      std::ranges::fill(data, static_cast<float>(i));
      communicator.all_reduce(in, tensor(data.data(), 1, 8));
      if (data[7] != static_cast<float>(2 * i)) return "a wrong sum";
    }
    try {
      communicator.all_reduce_all_gather(in, tensor(all.data(), 2, 8), 1);
    } catch (const PeerGone& error) {
      return named(error, {2, 3});
    }
    return "no error";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(StoppedRanks, ThatGoOnBeforeTheDeadlineAreNoError) {
  SKIP_UNDER_THREAD_SANITIZER();
  std::mt19937 random(99);
  for (int victim = 0; victim < ranks; ++victim) {
    const int at = 1 + static_cast<int>(random() % 100);
    const microseconds delay(random() % 2000);
    const auto results = spawn(Ranks::processes, ranks, [&](Bootstrap& bootstrap) -> std::string {
      Communicator communicator(bootstrap, grid_of_ranks(ranks));
      Operations operate(communicator, static_cast<unsigned>(victim));
      pid_t helper = 0;
      for (int i = 1; i <= 200; ++i) {
        if (bootstrap.rank() == victim && i == at) helper = stop_this_process_in(delay, milliseconds(400));
        if (auto wrong = operate.next(); !wrong.empty()) return wrong;
      }
      if (helper != 0) waitpid(helper, nullptr, 0);
      return "";
    });
    EXPECT_EQ(failures(results), "") << "rank " << victim << " was stopped";
  }
}

/// It is alive, so nobody is told at once; and it must not go on with a communicator that the others gave up.
TEST(StoppedRanks, ThatGoOnAfterTheDeadlineFailAsTheOthers) {
  SKIP_UNDER_THREAD_SANITIZER();
  const auto results = spawn(Ranks::processes, ranks, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, grid_of_ranks(ranks, milliseconds(500)));
    Operations operate(communicator, 5);
    pid_t helper = 0;
    std::string text = "no error";
    for (int i = 1; i <= 20 && text == "no error"; ++i) try {
        if (bootstrap.rank() == 1 && i == 10) {
          helper = stop_this_process_in(microseconds(0), milliseconds(1500));
          std::this_thread::sleep_for(milliseconds(200));  // it is stopped meanwhile
        }
        if (auto wrong = operate.next(); !wrong.empty()) return wrong;
      } catch (const PeerGone& error) {
        text = std::string("rank 1 is alive: ") + error.what();
      } catch (const Timeout& error) {
        text = named(error, {1});
      }
    if (helper != 0) waitpid(helper, nullptr, 0);
    return text;
  });
  EXPECT_EQ(failures(results), "");
}

// --- going on

/// Ranks are killed one after the other, by their first numbers, until one is left; the rest go on each time.
std::string lose_one_by_one(const std::vector<int>& victims, Bootstrap& first, bool told) {
  std::unique_ptr<Bootstrap> owner;
  Bootstrap* bootstrap = &first;
  std::vector<int> numbers(static_cast<std::size_t>(first.world()));
  std::ranges::generate(numbers, [i = 0]() mutable { return i++; });
  for (const int victim : victims) {
    std::vector<int> lost;
    {
      Untold untold(*bootstrap);
      Communicator communicator(told ? *bootstrap : untold,
                                grid_of_ranks(bootstrap->world(), told ? deadline : milliseconds(700)));
      Operations random(communicator, static_cast<unsigned>(victim));
      for (int i = 0; lost.empty(); ++i) try {
          if (i == 10 && numbers[static_cast<std::size_t>(bootstrap->rank())] == victim) std::raise(SIGKILL);
          if (auto wrong = random.next(); !wrong.empty()) return wrong;
          if (i > 1000) return "no error";
        } catch (const Timeout& error) {
          lost = error.missing();
        }
    }
    Survivors left = bootstrap->survivors(lost);
    std::vector<int> theirs;
    for (const int r : left.ranks) theirs.push_back(numbers[static_cast<std::size_t>(r)]);
    numbers.erase(std::ranges::find(numbers, victim));
    if (theirs != numbers)
      return fmt::format("ranks {} go on, not {}", fmt::join(theirs, ", "), fmt::join(numbers, ", "));
    owner = std::move(left.bootstrap);
    bootstrap = owner.get();
    if (auto wrong = operate(*bootstrap, 50, 3); !wrong.empty()) return wrong;
  }
  return "";
}

void expect_survivors_to_go_on(const std::vector<int>& victims, bool told) {
  const auto results = spawn(Ranks::processes, ranks,
                             [&](Bootstrap& bootstrap) { return lose_one_by_one(victims, bootstrap, told); });
  for (int r = 0; r < ranks; ++r) {
    const bool killed = std::ranges::find(victims, r) != victims.end();
    EXPECT_EQ(results[static_cast<std::size_t>(r)], killed ? "killed by signal 9" : "")
        << "rank " << r << ", victims " << fmt::format("{}", fmt::join(victims, ", "));
  }
}

TEST(Survivors, GoOnRight) {
  SKIP_UNDER_THREAD_SANITIZER();
  for (const std::vector<int>& victims : {std::vector{1}, {0, 1, 2}, {3, 2, 1}, {2, 0}})
    expect_survivors_to_go_on(victims, true);
}

TEST(Survivors, GoOnRightWhereNothingTellsOfDeaths) {
  SKIP_UNDER_THREAD_SANITIZER();
  expect_survivors_to_go_on({0, 2}, false);
}

/// Rank 2 dies when all know of rank 1's death already; and so does rank 0, where they would have met.
TEST(Survivors, AreNotHeldUpByThoseWhoDieMeanwhile) {
  if (!has_pidfd()) GTEST_SKIP() << "this system has no pidfd";
  for (const int second : {2, 0}) {
    const auto results = spawn(Ranks::processes, ranks, [&](Bootstrap& bootstrap) -> std::string {
      std::vector<int> lost;
      {
        Communicator communicator(bootstrap, grid_of_ranks(ranks));
        if (bootstrap.rank() == 1) std::raise(SIGKILL);
        try {
          const std::vector<float> data(8);
          std::vector<float> all(16);
          communicator.all_reduce_all_gather(tensor(data.data(), 1, 8), tensor(all.data(), 2, 8), 1);
        } catch (const Timeout& error) {
          lost = error.missing();
        }
      }
      if (bootstrap.rank() == second) {
        std::this_thread::sleep_for(milliseconds(200));
        std::raise(SIGKILL);
      }
      const Survivors left = bootstrap.survivors(lost);
      if (left.ranks != (second == 2 ? std::vector{0, 3} : std::vector{2, 3})) return "others go on";
      return operate(*left.bootstrap, 20, 8);
    });
    for (int r = 0; r < ranks; ++r)
      EXPECT_EQ(results[static_cast<std::size_t>(r)], r == 1 || r == second ? "killed by signal 9" : "") << r;
  }
}

TEST(Survivors, WaitForEachOtherAndNameWhoDoesNotCome) {
  for (const Ranks kind : {Ranks::threads, Ranks::processes}) {
    const auto results = spawn(
        kind, ranks,
        [](Bootstrap& bootstrap) -> std::string {
          if (bootstrap.rank() == 0) return "";  // counts as lost
          if (bootstrap.rank() == 2) {           // comes too late
            std::this_thread::sleep_for(milliseconds(1500));
            return "";
          }
          std::vector<int> lost{0};
          try {
            (void)bootstrap.survivors(lost);
            return "rank 2 was not waited for";
          } catch (const Timeout& error) {
            if (auto wrong = named(error, {2}); !wrong.empty()) return wrong;
            lost.push_back(2);
          }
          const Survivors left = bootstrap.survivors(lost);
          return left.ranks == std::vector{1, 3} ? operate(*left.bootstrap, 20, 2) : "others go on";
        },
        milliseconds(500));
    EXPECT_EQ(failures(results), "");
  }
}

TEST(Survivors, AThreadThatIsLostIsGoneOnWithout) {
  const auto results = spawn(Ranks::threads, ranks, [](Bootstrap& bootstrap) -> std::string {
    if (bootstrap.rank() == 1) return "";
    const Survivors left = bootstrap.survivors(std::vector{1});
    if (left.bootstrap->world() != 3) return "another number of ranks";
    return operate(*left.bootstrap, 50, 4);
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Survivors, ArgumentsAreChecked) {
  for (const Ranks kind : {Ranks::threads, Ranks::processes}) {
    const auto results = spawn(kind, 2, [](Bootstrap& bootstrap) -> std::string {
      for (const int wrong : {bootstrap.rank(), -1, 2}) try {
          (void)bootstrap.survivors(std::vector{wrong});
          return "no error";
        } catch (const InvalidArgument&) {
        }
      return bootstrap.exchange("going on", "").size() == 2 ? "" : "it did not go on";
    });
    EXPECT_EQ(failures(results), "");
  }
}

}  // namespace
}  // namespace mixcomm::test
