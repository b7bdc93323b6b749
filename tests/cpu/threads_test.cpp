// Operations with several threads of a rank: the same bits, whoever helps, and every end as without.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "cpu/processors.hpp"
#include "cpu/shared_state.hpp"
#include "cpu/thread_count.hpp"
#include "cpu/thread_team.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"
#include "support/sanitized.hpp"
#include "support/spawn.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

using cpu::RankProcessors;
using cpu::ThreadCount;
using cpu::ThreadTeam;

/// Every pass has helpers, however small.
struct ShareAll {
  ShareAll() { cpu::thread_rule() = {.least_bytes = 1, .bytes_each = 1}; }
  ~ShareAll() { cpu::thread_rule() = before; }
  ShareAll(const ShareAll&) = delete;
  ShareAll& operator=(const ShareAll&) = delete;
  cpu::ThreadRule before = cpu::thread_rule();
};

// Which threads

RankProcessors on(std::initializer_list<int> processors, int threads = 0, int most = 0) {
  RankProcessors rank{.usable = {}, .threads = threads, .most = most};
  CPU_ZERO(&rank.usable);
  for (const int p : processors) CPU_SET(p, &rank.usable);
  return rank;
}
int own_core(int processor) {
  return processor;
}
int core_of_two(int processor) {
  return processor / 2;
}
std::vector<int> counts(const std::vector<RankProcessors>& ranks, cpu::CoreOf core = own_core,
                        double limit = 0) {
  std::vector<int> found;
  for (const auto& share : cpu::threads_of(ranks, core, limit)) found.push_back(share.threads);
  return found;
}

TEST(ThreadShare, IsWhatARankOwns) {
  EXPECT_EQ(counts({on({0, 1, 2, 3}), on({4, 5, 6, 7})}), (std::vector{4, 4}));
  EXPECT_EQ(counts({on({0, 1, 2, 3}), on({0, 1, 2, 3})}), (std::vector{2, 2}));
  EXPECT_EQ(counts({on({0}), on({0}), on({0})}), (std::vector{1, 1, 1}));
  // Two own processors, and half of two shared ones.
  EXPECT_EQ(counts({on({0, 1, 2, 3}), on({2, 3, 4, 5})}), (std::vector{3, 3}));
  // Three thirds are one.
  EXPECT_EQ(counts({on({0, 1, 2}), on({0, 1, 2}), on({0, 1, 2})}), (std::vector{1, 1, 1}));
}

TEST(ThreadShare, CountsCoresAndNotTheirProcessors) {
  EXPECT_EQ(counts({on({0, 1, 2, 3, 4, 5, 6, 7})}, core_of_two), std::vector{4});
  EXPECT_EQ(counts({on({0, 2}), on({1, 3})}, core_of_two), (std::vector{1, 1}));
}

TEST(ThreadShare, FollowsWhatUsersSay) {
  EXPECT_EQ(counts({on({0, 1, 2, 3}, 0, 3)}), std::vector{3});
  EXPECT_EQ(counts({on({0, 1}, 0, 3)}), std::vector{2});
  EXPECT_EQ(counts({on({0, 1, 2, 3}, 0, 4)}, core_of_two), std::vector{4});  // it counts processors
  EXPECT_EQ(counts({on({0, 1}, 7, 3)}), std::vector{7});
  EXPECT_EQ(counts({on({0, 1, 2, 3}), on({0, 1, 2, 3})}, own_core, 2.0), (std::vector{1, 1}));
  const auto shares = cpu::threads_of(std::vector{on({0, 1, 2, 3}, 0, 1), on({0, 1, 2, 3})}, own_core, 0);
  EXPECT_EQ(shares[0].why, "4 processors, which 2 ranks share; OMP_NUM_THREADS says 1");
  EXPECT_EQ(shares[1].why, "4 cores, which 2 ranks share");
}

TEST(ThreadShare, VariableTakesThePlaceOfTheOption) {
  const auto threads = [](int option) {
    int found = 0;
    (void)spawn(Ranks::threads, 1, [&](Bootstrap& bootstrap) {
      found = Communicator(bootstrap, {.cpu = {.threads = option}}).options().cpu.threads;
      return std::string();
    });
    return found;
  };
  setenv("MIXCOMM_THREADS", "5", 1);
  EXPECT_EQ(threads(0), 5);
  EXPECT_EQ(threads(3), 3);
  for (const char* wrong : {"many", "0", "-1", "257", "4x", " 4"}) {
    setenv("MIXCOMM_THREADS", wrong, 1);
    const auto said = spawn(Ranks::threads, 1, [](Bootstrap& bootstrap) {
      return error_of<InvalidArgument>([&] { (void)Communicator(bootstrap, {}); });
    });
    EXPECT_NE(said[0].find("MIXCOMM_THREADS is '" + std::string(wrong)), std::string::npos) << said[0];
  }
  unsetenv("MIXCOMM_THREADS");
  setenv("OMP_NUM_THREADS", "1,4", 1);
  EXPECT_EQ(threads(0), 1);
  unsetenv("OMP_NUM_THREADS");
}

TEST(ThreadShare, NumbersThatCannotBeAreRefused) {
  for (const int wrong : {-1, most_threads + 1}) {
    const auto said = spawn(Ranks::threads, 1, [&](Bootstrap& bootstrap) {
      return error_of<InvalidArgument>([&] { (void)Communicator(bootstrap, {.cpu = {.threads = wrong}}); });
    });
    EXPECT_NE(said[0].find("cpu.threads is " + std::to_string(wrong)), std::string::npos) << said[0];
  }
}

// How many of them

/// A machine on which `best` threads are the quickest. Returns how often each number ran.
std::map<int, int> choices(ThreadCount& count, int calls, int best, int lanes = 8) {
  std::map<int, int> chosen;
  for (int call = 0; call < calls; ++call) {
    const ThreadCount::Work work{0, std::size_t{1} << 20U};
    const int threads = count.choose(work, lanes);
    ++chosen[threads];
    const int apart = threads > best ? threads / best : best / threads;
    count.note(work, threads, 1000 * static_cast<std::uint64_t>(apart));
  }
  return chosen;
}

TEST(ThreadCountTest, FindsTheNumberThatIsQuickest) {
  for (const int best : {1, 2, 4, 8}) {
    ThreadCount count(8, 1);
    EXPECT_GT(choices(count, 640, best)[best], 480) << best;
  }
}

TEST(ThreadCountTest, NoticesThatTheMachineChanges) {
  ThreadCount count(8, 1);
  (void)choices(count, 320, 8);
  (void)choices(count, 640, 2);
  EXPECT_GT(choices(count, 320, 2)[2], 280);
  (void)choices(count, 640, 8);
  EXPECT_GT(choices(count, 320, 8)[8], 280);
}

TEST(ThreadCountTest, AllThreadsUnlessFewerAreClearlyQuicker) {
  ThreadCount count(6, 1);
  for (int call = 0; call < 320; ++call) {
    const int threads = count.choose({0, 1 << 20}, 6);
    EXPECT_TRUE(threads == 6 || threads == 4) << threads;
    count.note({0, 1 << 20}, threads, threads == 6 ? 1000 : 800);
  }
  EXPECT_GT(choices(count, 100, 6, 3)[3], 80);  // no more than there are lanes
}

/// Calls of several kinds in turn: each has its trials.
TEST(ThreadCountTest, EachWorkHasItsTrials) {
  ThreadCount count(8, 2);
  int alone = 0;
  for (std::size_t call = 0; call < 1280; ++call) {
    const ThreadCount::Work work{call % 2, std::size_t{1} << 20U};
    const int threads = count.choose(work, 8);
    if (work.kind == 1 && threads == 1) ++alone;
    count.note(work, threads, static_cast<std::uint64_t>(1000 * threads));
  }
  EXPECT_GT(alone, 480);
}

TEST(LaneRule, SmallCallsAreTheCallersAlone) {
  EXPECT_EQ(cpu::lanes_for(cpu::thread_rule().least_bytes - 1, 8), 1);
  EXPECT_EQ(cpu::lanes_for(std::size_t{8} << 20U, 1), 1);
}

TEST(LaneRule, LargeOnesHaveAllThreadsThatFindSomethingToDo) {
  EXPECT_EQ(cpu::lanes_for(std::size_t{64} << 10U, 6), 4);
  EXPECT_EQ(cpu::lanes_for(std::size_t{128} << 10U, 6), 6);
  EXPECT_EQ(cpu::lanes_for(std::size_t{8} << 20U, 6), 6);
  EXPECT_EQ(cpu::lanes_for(std::size_t{8} << 20U, cpu::lanes_at_most), cpu::lanes_at_most);
}

// The team

/// Runs so many pieces; false unless each ran once. The caller's own takes its time, so that helpers come.
bool each_once(ThreadTeam& team, int pieces) {
  std::vector<std::atomic<int>> ran(static_cast<std::size_t>(pieces));
  std::vector<int> plain(static_cast<std::size_t>(pieces));
  team.run(pieces, [&](int i) {
    if (i == 0) std::this_thread::yield();
    ran[static_cast<std::size_t>(i)].fetch_add(1);
    plain[static_cast<std::size_t>(i)] = i + 1;  // seen by the caller, or ThreadSanitizer says so
  });
  for (int i = 0; i < pieces; ++i)
    if (ran[static_cast<std::size_t>(i)] != 1 || plain[static_cast<std::size_t>(i)] != i + 1) return false;
  return true;
}

TEST(Team, DoesEachPieceOnce) {
  ThreadTeam team;
  for (const bool shares : {false, true}) {
    if (shares) team.share_processors();
    for (int i = 0; i < (sanitized ? 300 : 3000); ++i) ASSERT_TRUE(each_once(team, 1 + i * 7 % 6)) << i;
  }
  EXPECT_EQ(team.helpers(), 5);
}

TEST(Team, WakesHelpersThatSleep) {
  ThreadTeam team;
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(each_once(team, 8));
    std::this_thread::sleep_for(std::chrono::milliseconds(12));  // longer than they stay awake
    if (i % 2 == 0) team.rouse(8);
  }
  // With pieces that wait for each other, each has a thread: nobody sleeps on.
  std::atomic<int> here{0};
  std::atomic<bool> late{false};
  std::this_thread::sleep_for(std::chrono::milliseconds(12));
  team.run(8, [&](int) {
    ++here;
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (here < 8 && !late) {
      std::this_thread::yield();
      if (std::chrono::steady_clock::now() > until) late = true;
    }
  });
  EXPECT_FALSE(late);
}

TEST(Team, TwoCallersAtATimeBothEnd) {
  ThreadTeam team;
  std::atomic<bool> wrong{false};
  const auto call = [&] {
    for (int i = 0; i < 500; ++i)
      if (!each_once(team, 4)) wrong = true;
  };
  std::thread other(call);
  call();
  other.join();
  EXPECT_FALSE(wrong);
}

TEST(Team, BelongsToTheThreadThatAsks) {
  const auto mine = ThreadTeam::of_this_thread();
  EXPECT_EQ(mine, ThreadTeam::of_this_thread());
  std::shared_ptr<ThreadTeam> theirs;
  std::thread([&] { theirs = ThreadTeam::of_this_thread(); }).join();
  EXPECT_NE(mine, theirs);
  EXPECT_TRUE(each_once(*theirs, 3));  // after its thread has ended
}

TEST(Team, HelpersTakeNoSignals) {
  ThreadTeam team;
  std::mutex mutex;
  std::set<bool> blocked;
  const auto caller = std::this_thread::get_id();
  for (int i = 0; i < 1000 && blocked.empty(); ++i)
    team.run(2, [&](int) {
      if (std::this_thread::get_id() == caller) return std::this_thread::yield();
      sigset_t set;
      pthread_sigmask(SIG_SETMASK, nullptr, &set);
      const std::lock_guard lock(mutex);
      blocked.insert(sigismember(&set, SIGINT) == 1);
    });
  EXPECT_EQ(blocked, std::set{true});
}

#if !defined(__SANITIZE_THREAD__)  // which does not follow threads into a child
TEST(Team, AForkedChildDoesAllByItself) {
  auto team = std::make_unique<ThreadTeam>();
  ASSERT_TRUE(each_once(*team, 4));
  const pid_t child = fork();
  if (child == 0) {
    const bool all = each_once(*team, 4) && each_once(*team, 6);
    team.reset();
    _exit(all ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_TRUE(each_once(*team, 4));
}
#endif

// Operations

struct Setup {
  Ranks ranks;
  int tp;
  int dp;
  int threads;
};

class CollectivesOfThreads : public testing::TestWithParam<Setup> {};

TEST_P(CollectivesOfThreads, EveryCaseIsExact) {
  const ShareAll share_all;
  const auto& setup = GetParam();
  const int tp = setup.tp;
  const int dp = setup.dp;
  verify::Matrix matrix{.tp = tp, .dp = dp, .ops = {}, .algorithms = {}, .dtypes = {}, .large = !sanitized};
  if (setup.ranks == Ranks::processes) matrix.dtypes = {DType::bf16};
  const auto cases = verify::cases_of(matrix);
  const auto results = spawn(setup.ranks, tp * dp, [&](Bootstrap& bootstrap) {
    // Ranks need not have as many as the others.
    Communicator communicator(bootstrap, {.tp = tp,
                                          .dp = dp,
                                          .workspace_bytes = verify::workspace_bytes,
                                          .cpu = {.threads = bootstrap.rank() == 1 ? 2 : setup.threads}});
    verify::Verifier verifier(communicator, verify::most_elements(cases, dp));
    return verifier.run(cases);
  });
  EXPECT_EQ(failures(results), "");
}

std::vector<Setup> setups() {
  std::vector<Setup> all{{Ranks::threads, 2, 1, 4}, {Ranks::threads, 1, 2, 3}, {Ranks::threads, 2, 2, 3}};
#if !defined(__SANITIZE_THREAD__)
  all.push_back({Ranks::processes, 2, 2, 3});
  all.push_back({Ranks::processes, 3, 2, 2});
#endif
  return all;
}
INSTANTIATE_TEST_SUITE_P(Grids, CollectivesOfThreads, testing::ValuesIn(setups()), [](const auto& instance) {
  const Setup& s = instance.param;
  return std::string(s.ranks == Ranks::threads ? "threads" : "processes") + "_" + std::to_string(s.tp) + "x" +
         std::to_string(s.dp) + "_of_" + std::to_string(s.threads);
});

/// Large sums of integers, and whether they are right.
std::string sum(Communicator& communicator, std::size_t elements = 1 << 18) {
  std::vector<float> in(elements, 1.0F);
  std::vector<float> out(elements);
  communicator.all_reduce(tensor(in.data(), 1, elements), tensor(out.data(), 1, elements));
  const auto wanted = static_cast<float>(communicator.grid().tp.size);
  for (const float x : out)
    if (x != wanted) return "wrong";
  return "";
}

TEST(Threads, CallersOwnWorkersServeAsWell) {
  std::atomic<int> runs{0};
  const RunPieces workers = [&](int pieces, const std::function<void(int)>& piece) {
    ++runs;
    std::vector<std::thread> threads;
    for (int i = pieces - 1; i >= 0; --i) threads.emplace_back([&piece, i] { piece(i); });
    for (std::thread& thread : threads) thread.join();
  };
  const auto results = spawn(Ranks::threads, 2, [&](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap, {.tp = 2, .cpu = {.threads = 3, .workers = workers}});
    for (int i = 0; i < 10; ++i)
      if (auto wrong = sum(communicator); !wrong.empty()) return wrong;
    return std::string();
  });
  EXPECT_EQ(failures(results), "");
  EXPECT_GT(runs, 10);
}

TEST(Threads, OpenMPThatIsNotThereIsRefused) {
  setenv("MIXCOMM_WORKERS", "openmp", 1);
  const auto said = spawn(Ranks::threads, 1, [](Bootstrap& bootstrap) {
    return error_of<InvalidArgument>([&] { (void)Communicator(bootstrap, {}); });
  });
  unsetenv("MIXCOMM_WORKERS");
  EXPECT_NE(said[0].find("no OpenMP runtime is loaded in this process"), std::string::npos) << said[0];
}

TEST(Threads, SeveralCommunicatorsShareATeamAndPauseInBetween) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) {
    Communicator first(bootstrap, {.tp = 2, .cpu = {.threads = 3}});
    for (int i = 0; i < 3; ++i) {
      Communicator second(bootstrap, {.tp = 2, .cpu = {.threads = 4}});
      for (Communicator* each : {&first, &second, &first})
        if (auto wrong = sum(*each); !wrong.empty()) return wrong;
      first.pause();
      if (auto wrong = sum(second); !wrong.empty()) return wrong;
      first.resume();
    }
    return sum(first);
  });
  EXPECT_EQ(failures(results), "");
}

/// Later than helpers wait: they leave their lanes, and go on when it has come.
TEST(Threads, ALateRankIsWaitedForByItsCallerAlone) {
  const auto results = spawn(Ranks::threads, 3, [](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap, {.tp = 3, .cpu = {.threads = 3}});
    for (int i = 0; i < 30; ++i) {
      if (bootstrap.rank() == i % 3) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      if (auto wrong = sum(communicator); !wrong.empty()) return wrong;
    }
    return std::string();
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Threads, CallsThatDisagreeAreNamed) {
  for (const std::size_t other : {std::size_t{1} << 17U, (std::size_t{1} << 18U) - 64}) {
    const auto results = spawn(Ranks::threads, 2, [&](Bootstrap& bootstrap) {
      Communicator communicator(bootstrap, {.tp = 2, .cpu = {.threads = 3}});
      if (auto wrong = sum(communicator); !wrong.empty()) return wrong;
      const std::string said = error_of<Disagreement>(
          [&] { (void)sum(communicator, bootstrap.rank() == 0 ? std::size_t{1} << 18U : other); });
      return said.find(std::to_string(other)) != std::string::npos ? std::string() : "it said: " + said;
    });
    EXPECT_EQ(failures(results), "");
  }
}

TEST(Threads, ARankThatDoesNotComeIsATimeout) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap,
                              {.tp = 2, .timeout = std::chrono::milliseconds(300), .cpu = {.threads = 3}});
    if (auto wrong = sum(communicator); !wrong.empty()) return wrong;
    if (bootstrap.rank() == 1) return std::string();
    const std::string said = error_of<Timeout>([&] { (void)sum(communicator); });
    return said.find("rank 1") != std::string::npos ? std::string() : "it said: " + said;
  });
  EXPECT_EQ(failures(results), "");
}

#if !defined(__SANITIZE_THREAD__)
TEST(Threads, ARankThatIsKilledIsNamed) {
  const auto results = spawn(Ranks::processes, 3, [](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap, {.tp = 3, .cpu = {.threads = 3}});
    for (int i = 0; i < 3; ++i)
      if (auto wrong = sum(communicator); !wrong.empty()) return wrong;
    if (bootstrap.rank() == 1) {
      // In the middle of its calls, helpers and all.
      std::thread([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        kill(getpid(), SIGKILL);
      }).detach();
    }
    const std::string said = error_of<PeerGone>([&] {
      for (;;) (void)sum(communicator);
    });
    return said.find("rank 1") != std::string::npos ? std::string() : "it said: " + said;
  });
  EXPECT_EQ(results[0], "");
  EXPECT_EQ(results[1], "killed by signal 9");
  EXPECT_EQ(results[2], "");
}
#endif

}  // namespace
}  // namespace mixcomm::test
