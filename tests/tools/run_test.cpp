// `mixcomm run`: processes that end, fail, hang and leave others behind; and ranks of other launchers.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

#include <set>
#include <sstream>

#include "command.hpp"

namespace mixcomm::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// `mixcomm run` of a shell script on every rank, with flags before it.
Words script(const Words& flags, const std::string& text) {
  Words words{"run"};
  words.insert(words.end(), flags.begin(), flags.end());
  words.insert(words.end(), {"--", "sh", "-c", text});
  return words;
}

/// A command line that no other process has, which takes a minute and more.
std::string long_sleep() {
  static int count = 0;
  return "sleep 8" + std::to_string(getpid()) + "." + std::to_string(++count);
}

template <class Condition>
bool soon(const Condition& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(10));
  }
  return false;
}

/// But those of MPIs, whose tests may run beside this one.
std::set<std::string> shared_memory_files() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("vader_segment.") && !name.starts_with("mpich_")) names.insert(name);
  }
  return names;
}

/// A port that nobody listens on, and one that somebody does while this lives.
struct Listener {
  Listener() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 || listen(fd, 1) != 0)
      std::abort();
    socklen_t size = sizeof(address);
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
  }
  ~Listener() { close(fd); }
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  int port = 0;
};

TEST(Run, GivesEachRankItsEnvironment) {
  const Outcome outcome =
      run(script({"-n", "3", "--tag"},
                 "echo $MIXCOMM_RANK $MIXCOMM_WORLD_SIZE $MIXCOMM_HOST ${#MIXCOMM_SECRET}; "
                 "[ ! -e /proc/$$/fd/${MIXCOMM_LISTENER:-none} ] || echo listens; cat; echo to stderr >&2; "
                 "printf unended"),
          {}, "for rank 0\n");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_CONTAINS(outcome.out, "[0] 0 3 127.0.0.1 32\n");
  EXPECT_CONTAINS(outcome.out, "[1] 1 3 127.0.0.1 32\n");
  EXPECT_CONTAINS(outcome.out, "[2] 2 3 127.0.0.1 32\n");
  EXPECT_CONTAINS(outcome.out, "[0] for rank 0\n");
  EXPECT_EQ(outcome.out.find("[1] for rank 0"), std::string::npos);
  EXPECT_CONTAINS(outcome.out, "[0] listens\n");
  EXPECT_EQ(outcome.out.find("[1] listens"), std::string::npos);
  EXPECT_CONTAINS(outcome.out, "[2] unended\n");
  EXPECT_CONTAINS(outcome.err, "[1] to stderr\n");
}

TEST(Run, PassesOutputThroughUnchanged) {
  EXPECT_EQ(run(script({"-n", "1"}, "printf 'a\\nb'")).out, "a\nb");
}

TEST(Run, ExitsAsTheFirstRankThatFailed) {
  const Outcome failed = run(script({"-n", "2"}, "exit $((MIXCOMM_RANK * 7))"));
  EXPECT_EQ(failed.code, 7);
  EXPECT_CONTAINS(failed.err, "rank 1 exited with code 7");
  const Outcome killed = run(
      script({"-n", "2", "--grace", "0"}, "[ $MIXCOMM_RANK = 0 ] || kill -SEGV $$; exec " + long_sleep()));
  EXPECT_EQ(killed.code, 128 + SIGSEGV);
  EXPECT_CONTAINS(killed.err, "rank 1 was killed by signal 11");
  EXPECT_EQ(run({"run", "-n", "2", "--", "/nonexistent/program"}).code, 127);
  EXPECT_EQ(run({"run", "-n", "2", "--", "/dev/null"}).code, 126);
}

TEST(Run, EndsRanksThatDoNotEndByThemselves) {
  const std::string sleeper = long_sleep();
  // Rank 0 does not heed SIGTERM.
  const Outcome outcome = run(
      script({"-n", "3", "--grace", "0.2"},
             "[ $MIXCOMM_RANK != 1 ] || exit 3; [ $MIXCOMM_RANK != 0 ] || trap '' TERM; exec " + sleeper));
  EXPECT_EQ(outcome.code, 3);
  EXPECT_EQ(processes_with(sleeper), 0);
}

TEST(Run, EndsTheJobAtItsTimeLimit) {
  const Outcome outcome = run(script({"-n", "2", "--timeout", "0.3"}, "exec " + long_sleep()));
  EXPECT_EQ(outcome.code, 124);
  EXPECT_CONTAINS(outcome.err, "0.3 s");
}

TEST(Run, PassesSignalsOn) {
  for (const int signal : {SIGTERM, SIGINT}) {
    Running job(
        script({"-n", "2"}, "trap 'echo caught; exit 0' TERM INT; echo ready; while :; do sleep 0.05; done"));
    ASSERT_TRUE(soon([&] { return job.out() == "ready\nready\n"; })) << job.err();
    kill(job.pid(), signal);
    const Outcome outcome = job.finish();
    EXPECT_EQ(outcome.code, 128 + signal);
    EXPECT_EQ(outcome.out, "ready\nready\ncaught\ncaught\n");
  }
}

TEST(Run, LeavesNoProcessBehind) {
  const std::string background = long_sleep();
  EXPECT_EQ(run(script({"-n", "2"}, background + " & exit 0")).code, 0);
  EXPECT_EQ(processes_with(background), 0);
  // Nor if it is killed itself.
  const std::string rank = long_sleep();
  {
    Running job(script({"-n", "2"}, "exec " + rank));
    ASSERT_TRUE(soon([&] { return processes_with(rank) == 3; }));
    kill(job.pid(), SIGKILL);
    EXPECT_EQ(job.finish().code, 128 + SIGKILL);
  }
  EXPECT_TRUE(soon([&] { return processes_with(rank) == 0; }));
}

TEST(Run, RefusesAPortInUse) {
  const Listener listener;
  const Outcome outcome = run({"run", "-n", "2", "--port", std::to_string(listener.port), "--", "true"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_CONTAINS(outcome.err, "mixcomm: error: port " + std::to_string(listener.port));
  EXPECT_CONTAINS(outcome.err, "in use");
}

TEST(Run, SurvivorsOfAKilledRankNameIt) {
  const auto before = shared_memory_files();
  const std::string bench =
      command + " bench --tp 3 --op all_reduce --rows 4 --hidden 512 --seconds 60 --timeout 2";
  const Outcome outcome =
      run(script({"-n", "3", "--grace", "30"}, "[ $MIXCOMM_RANK = 1 ] || exec " + bench + "; " + bench +
                                                   " & sleep 1.5; kill -9 $!; wait $!"));
  EXPECT_EQ(outcome.code, 137);
  EXPECT_CONTAINS(outcome.err, "rank 1 exited with code 137");
  EXPECT_CONTAINS(outcome.err, "rank 0 exited with code 2");
  EXPECT_CONTAINS(outcome.err, "rank 2 exited with code 2");
  // Each survivor says that the process of rank 1 has ended, or where the system does not tell: that it
  // waited 2000 ms for rank 1.
  int errors = 0;
  std::istringstream lines(outcome.err);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("mixcomm: error: ", 0) != 0) continue;
    ++errors;
    EXPECT_CONTAINS(line, "rank 1");
    const bool told = line.find("the process of rank 1 has ended") != std::string::npos;
    EXPECT_TRUE(told || line.find("2000 ms") != std::string::npos) << line;
  }
  EXPECT_EQ(errors, 2);
  EXPECT_EQ(shared_memory_files(), before);
}

TEST(Run, MakesRanksOfTheCommandItself) {
  const Words check = {command, "check", "--quick", "--op", "all_reduce_all_gather", "--dtype", "bf16"};
  Words words{"run", "-n", "4", "--"};
  words.insert(words.end(), check.begin(), check.end());
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out,
            "tp 1 x dp 4: 280 cases, ok\ntp 2 x dp 2: 280 cases, ok\ntp 4 x dp 1: 280 cases, ok\n840 passed, "
            "0 failed\n");
  words.insert(words.end(), {"--tp", "2", "--dp", "1"});
  const Outcome wrong_world = run(words);
  EXPECT_EQ(wrong_world.code, 2);
  EXPECT_CONTAINS(wrong_world.err, "mixcomm run started 4 ranks, but 2 are asked for");
}

TEST(Run, AnotherLaunchersRanksFindEachOther) {
  int port = 0;
  {
    const Listener free_now;
    port = free_now.port;
  }
  const auto rank = [&](int r) {
    // The port beside MASTER_PORT is mixcomm's.
    return Environment{{"RANK", std::to_string(r)},
                       {"WORLD_SIZE", "2"},
                       {"MASTER_ADDR", "127.0.0.1"},
                       {"MASTER_PORT", std::to_string(port - 1)}};
  };
  const Words bench = {"bench", "--tp", "2",          "--rows",       "2", "--hidden",
                       "16",    "--op", "all_reduce", "--iterations", "10"};
  Running first(bench, rank(0));
  Running second(bench, rank(1));
  const Outcome rank_0 = first.finish();
  const Outcome rank_1 = second.finish();
  EXPECT_EQ(rank_0.code, 0) << rank_0.err;
  EXPECT_EQ(rank_1.code, 0) << rank_1.err;
  EXPECT_CONTAINS(rank_0.out, "one_shot");
  EXPECT_EQ(rank_1.out, "");
  const Outcome damaged = run(bench, {{"RANK", "zero"}, {"WORLD_SIZE", "2"}});
  EXPECT_EQ(damaged.code, 2);
  EXPECT_CONTAINS(damaged.err, "RANK=zero");
}

/// With real processes in between, whose variables are looked at.
TEST(Run, InsideOfAnotherLauncherTheInnermostCounts) {
  const std::string info = command + " info | grep launcher";
  const Environment around{{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}, {"RANK", "5"}};
  const Outcome inner = run(script({"-n", "2"}, info + "; true"), around);
  EXPECT_CONTAINS(inner.out, "mixcomm run, rank 0 of 2");
  EXPECT_CONTAINS(inner.out, "mixcomm run, rank 1 of 2");
  const Outcome outer = run(script(
      {"-n", "1"}, "for r in 0 1; do RANK=$r WORLD_SIZE=2 MASTER_PORT=2000 sh -c '" + info + "'; done"));
  EXPECT_CONTAINS(outer.out, "torchrun, rank 0 of 2");
  EXPECT_CONTAINS(outer.out, "torchrun, rank 1 of 2");
  const Words grid{"check", "--tp", "2", "--dp", "1"};
  const Outcome both = run(grid, {{"SLURM_PROCID", "1"},
                                  {"SLURM_NTASKS", "2"},
                                  {"SLURM_STEP_ID", "0"},
                                  {"RANK", "0"},
                                  {"WORLD_SIZE", "1"}});
  EXPECT_EQ(both.code, 2);
  EXPECT_CONTAINS(both.err, "torchrun (RANK=0 WORLD_SIZE=1) and Slurm (SLURM_PROCID=1 SLURM_NTASKS=2)");
}

TEST(Run, NeedsNoNetwork) {
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0 && unshare(CLONE_NEWNET) != 0) _exit(77);
    const Words check{"check", "--tp", "2", "--dp", "1", "--op", "all_reduce"};
    Words processes = check;
    processes.emplace_back("--processes");
    Words launched{"run", "-n", "2", "--", command};
    launched.insert(launched.end(), check.begin(), check.end());
    for (const Words& words : {processes, launched}) {
      const Outcome outcome = run(words);
      if (outcome.code == 0) continue;
      fprintf(stderr, "%s", outcome.err.c_str());
      _exit(1);
    }
    const std::string who = "$MIXCOMM_HOST $MIXCOMM_PORT";
    const Outcome outcome = run(script({"-n", "1", "--port", "4321"}, "echo " + who));
    _exit(outcome.out == "127.0.0.1 4321\n" ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "this system gives no network namespace";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Run, AMissingRankIsNamed) {
  const Outcome outcome = run({"bench", "--tp", "2", "--timeout", "0.3"},
                              {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MIXCOMM_PORT", "0"}});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_CONTAINS(outcome.err, "MIXCOMM_PORT");
}

}  // namespace
}  // namespace mixcomm::test
