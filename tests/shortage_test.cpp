// Ranks that may not open files, or not make the calls that set-up needs: that is what they say, all of them,
// and never that somebody did not come.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <optional>

#include "bootstrap/place.hpp"
#include "bootstrap/socket.hpp"
#include "bootstrap/system_call.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"
#include "support/held_port.hpp"
#include "support/spawn.hpp"
#include "tools/run/job.hpp"

namespace mixcomm::test {
namespace {

using std::chrono::milliseconds;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// This process may open `left` files from now on.
void leave_descriptors(int left) {
  const rlimit few{64, 64};
  if (setrlimit(RLIMIT_NOFILE, &few) != 0) _exit(1);
  std::vector<int> taken;
  for (int fd = 0; (fd = open("/dev/null", O_RDONLY)) >= 0;) taken.push_back(fd);
  for (int i = 0; i < left; ++i) close(taken.at(static_cast<std::size_t>(i)));
}

/// What a rank does with a communicator, from the rendezvous on: "", or its error.
std::string whole_life(const LaunchInfo& info, milliseconds timeout) {
  try {
    const auto bootstrap = bootstrap_processes(info, timeout);
    Communicator communicator(*bootstrap, {.tp = info.world, .dp = 1, .timeout = timeout});
    const float mine = static_cast<float>(info.rank + 1);
    float sum = 0;
    communicator.all_reduce(tensor(&mine, 1, 1), tensor(&sum, 1, 1));
    const int expected = info.world * (info.world + 1) / 2;
    return sum == static_cast<float>(expected) ? "" : "a wrong sum";
  } catch (const Timeout& error) {
    return fmt::format("Timeout: {}", error.what());
  } catch (const SystemError& error) {
    return fmt::format("SystemError: {}", error.what());
  } catch (const std::exception& error) {
    return fmt::format("another error: {}", error.what());
  }
}

/// As processes; what each one says, without a descriptor that it might be short of.
std::vector<std::string> lives(int world, const std::function<std::string(const LaunchInfo&)>& life,
                               bool secret, int port = 0) {
  using Text = std::array<char, 2000>;
  const auto count = static_cast<std::size_t>(world);
  auto* texts = static_cast<Text*>(
      mmap(nullptr, count * sizeof(Text), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  LaunchInfo info{"test", 0, world, "127.0.0.1", port, secret ? "secret" : ""};
  std::optional<HeldPort> held;
  if (port == 0) info.port = held.emplace().number();
  std::vector<pid_t> children;
  for (info.rank = 0; info.rank < world; ++info.rank) {
    children.push_back(fork());
    if (children.back() != 0) continue;
    const std::string text = life(info);
    text.copy(texts[info.rank].data(), sizeof(Text) - 1);
    _exit(0);
  }
  std::vector<std::string> results;
  for (std::size_t r = 0; r < count; ++r) {
    int status = 0;
    waitpid(children[r], &status, 0);
    results.emplace_back(status == 0 ? texts[r].data() : "it did not end well");
  }
  munmap(texts, count * sizeof(Text));
  return results;
}

/// Everybody is there. Two files suffice to say so.
TEST(Descriptors, TooFewAreNamedByAllRanks) {
  int went_well = 0;
  for (const int few : {-1, 0, 2})  // -1: all of them
    for (const bool secret : {true, false})
      for (const int left : {2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24}) {
        const auto results = lives(
            4,
            [&](const LaunchInfo& info) {
              if (few < 0 || few == info.rank) leave_descriptors(left);
              return whole_life(info, milliseconds(20'000));
            },
            secret);
        for (const std::string& result : results) {
          EXPECT_EQ(result.empty(), results[0].empty()) << result;
          const bool told = contains(result, "SystemError: ") && contains(result, "(ulimit -n)");
          EXPECT_TRUE(result.empty() || told) << "ranks " << few << " with " << left << " left: " << result;
        }
        went_well += results[0].empty() ? 1 : 0;
      }
  EXPECT_GE(went_well, 6) << "with 24 left it works";
}

TEST(Descriptors, NoneAtAllIsNoTimeout) {
  const auto results = lives(
      2,
      [&](const LaunchInfo& info) {
        if (info.rank == 1) leave_descriptors(0);
        return whole_life(info, milliseconds(300));
      },
      true);
  EXPECT_TRUE(contains(results[1], "SystemError: cannot make a socket: socket: Too many open files"))
      << results[1];
  EXPECT_TRUE(contains(results[1], "(ulimit -n)")) << results[1];
}

TEST(Descriptors, WithoutOneNoHostIsKnown) {
  const auto results = lives(
      1,
      [&](const LaunchInfo&) {
        leave_descriptors(0);
        return error_of<SystemError>([] { (void)host_identity(); }) + " " +
               error_of<SystemError>([] { (void)is_this_host("127.0.0.1"); });
      },
      true);
  EXPECT_TRUE(contains(results[0], "cannot find out which host this is")) << results[0];
  EXPECT_TRUE(contains(results[0], "cannot make a socket")) << results[0];
}

TEST(Descriptors, AreCountedWithoutOpeningAny) {
  const auto results = lives(
      1,
      [&](const LaunchInfo&) {
        leave_descriptors(5);
        need_descriptors(5, "this");
        return fmt::format("{} {} {}", descriptors_left(3), descriptors_left(100),
                           error_of<SystemError>([] { need_descriptors(6, "this"); }));
      },
      true);
  EXPECT_EQ(
      results[0],
      "3 5 this takes 6 more open files in this process, which may open 5 more, of 64: raise that limit "
      "(ulimit -n)");
}

/// From now on this process may not make that call, as in containers with a filter.
bool forbid(long call) {
  const std::array<sock_filter, 4> filter{{
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, static_cast<unsigned>(call)},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  }};
  const sock_fprog program{filter.size(), const_cast<sock_filter*>(filter.data())};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(ForbiddenCalls, AreNamedByAllRanks) {
  struct Forbidden {
    long call;
    const char* name;
  };
  for (const Forbidden& forbidden :
       {Forbidden{SYS_memfd_create, "memfd_create"}, {SYS_ftruncate, "ftruncate"}, {SYS_socket, "socket"}}) {
    const auto results = spawn(Ranks::processes, 3, [&](Bootstrap& bootstrap) -> std::string {
      if (bootstrap.rank() == 0 && !forbid(forbidden.call)) return "this system gives no filter";
      const auto text = error_of<SystemError>([&] { Communicator(bootstrap, {.tp = 3, .dp = 1}); });
      return contains(text, fmt::format("{}: Operation not permitted; a seccomp filter", forbidden.name))
                 ? ""
                 : text;
    });
    if (contains(results[0], "gives no filter")) GTEST_SKIP() << results[0];
    EXPECT_EQ(failures(results), "") << forbidden.name;
  }
}

/// In a network of its own, whose lo is down (or up, but without 127.0.0.1).
bool leave_network(bool lo_without_address) {
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0 && unshare(CLONE_NEWNET) != 0) return false;
  if (!lo_without_address) return true;
  const Fd any(socket(AF_INET, SOCK_DGRAM, 0));
  ifreq lo{};
  std::strcpy(lo.ifr_name, "lo");
  lo.ifr_flags = IFF_UP;
  if (ioctl(any.get(), SIOCSIFFLAGS, &lo) != 0) return false;
  ifreq none{};
  std::strcpy(none.ifr_name, "lo");
  none.ifr_addr.sa_family = AF_INET;
  return ioctl(any.get(), SIOCSIFADDR, &none) == 0;
}

/// The ranks of one host need no network.
TEST(Networks, WithoutIPv4LoopbackRanksMeetAllTheSame) {
  for (const bool lo_without_address : {false, true})
    for (const bool secret : {false, true})
      for (const char* host : {"127.0.0.1", "localhost"}) {
        const pid_t child = fork();
        if (child == 0) {
          if (!leave_network(lo_without_address)) _exit(77);
          if (has_ipv4_loopback()) _exit(1);
          const auto results = lives(
              3,
              [&](LaunchInfo info) {
                info.host = host;
                info.port = 4321;
                return whole_life(info, milliseconds(10'000));
              },
              secret, 4321);
          const std::string wrong = failures(results);
          fmt::print("{}", wrong);
          std::fflush(stdout);
          _exit(wrong.empty() ? 0 : 1);
        }
        int status = 0;
        waitpid(child, &status, 0);
        ASSERT_TRUE(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "this system gives no network namespace";
        EXPECT_EQ(WEXITSTATUS(status), 0) << host << (secret ? ", secret" : "");
      }
}

/// Their mailboxes cannot be reached then, which is found where something is sent. Nobody is waited for.
TEST(Networks, ThatRanksDoNotShareAreSaid) {
  const auto results = spawn(
      Ranks::processes, 3,
      [](Bootstrap& bootstrap) -> std::string {
        if (bootstrap.rank() == 2 && !leave_network(false)) return "this system gives no network namespace";
        const auto text = error_of<SystemError>([&] { (void)bootstrap.exchange_descriptors("passing", 1); });
        return contains(text, "must share a network namespace") ? "" : text;
      },
      milliseconds(60'000));
  if (contains(results[2], "gives no network")) GTEST_SKIP() << results[2];
  EXPECT_EQ(failures(results), "");
}

/// 10.96.0.17 is the kind of address that services have in Kubernetes; no host of the tests has it.
TEST(Networks, AnAddressThatIsNobodysNamesTheWayOut) {
  const auto text = [](const std::string& secret) {
    return error_of<Error>([&] {
      (void)bootstrap_processes({"test", 0, 2, "10.96.0.17", 4321, secret}, milliseconds(300));
    });
  };
  EXPECT_TRUE(contains(text(""), "MIXCOMM_HOST to 127.0.0.1")) << text("");
  EXPECT_TRUE(contains(text("x"), "set MIXCOMM_HOST")) << text("x");
}

TEST(ForbiddenCalls, ASocketThatMayNotBeMadeIsNoMissingRankAndNoMissingNetwork) {
  const HeldPort held;
  for (const char* secret : {"", "secret"}) {
    const auto results = lives(
        2,
        [&](const LaunchInfo& info) -> std::string {
          if (!forbid(SYS_socket)) return "this system gives no filter";
          return whole_life(info, milliseconds(60'000));
        },
        secret[0] != '\0', held.number());
    if (contains(results[0], "gives no filter")) GTEST_SKIP() << results[0];
    for (const std::string& result : results) {
      EXPECT_TRUE(contains(result, "SystemError: ")) << result;
      EXPECT_TRUE(contains(result, "socket: Operation not permitted; a seccomp filter")) << result;
      EXPECT_FALSE(contains(result, "has no 127.0.0.1")) << result;
    }
  }
}

#if defined(SYS_pidfd_open)
/// Deaths are then found by the deadline.
TEST(ForbiddenCalls, PidfdIsDoneWithout) {
  const auto results = spawn(Ranks::processes, 2, [&](Bootstrap& bootstrap) -> std::string {
    if (bootstrap.rank() == 0 && !forbid(SYS_pidfd_open)) return "this system gives no filter";
    Communicator communicator(bootstrap, {.tp = 2, .dp = 1});
    const float mine = 1;
    float sum = 0;
    communicator.all_reduce(tensor(&mine, 1, 1), tensor(&sum, 1, 1));
    return sum == 2 && bootstrap.processes()[0].valid() == false ? "" : "another sum, or a pidfd";
  });
  if (contains(results[0], "gives no filter")) GTEST_SKIP() << results[0];
  EXPECT_EQ(failures(results), "");
}

/// Who waited until the deadline learns why nothing told of the death, and that only where that is so.
TEST(ForbiddenCalls, WithoutPidfdAnUnseenDeathSaysWhyItWasUnseen) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer sees nothing of what processes share, and is slow";
#endif
  for (const int without : {0, 1}) {
    const auto results = spawn(Ranks::processes, 2, [&](Bootstrap& bootstrap) -> std::string {
      if (bootstrap.rank() == without && !forbid(SYS_pidfd_open)) return "this system gives no filter";
      Communicator communicator(bootstrap, {.tp = 2, .dp = 1, .timeout = milliseconds(500)});
      if (bootstrap.rank() == 1) _exit(0);
      const float mine = 1;
      float sum = 0;
      const auto text =
          error_of<Timeout>([&] { communicator.all_reduce(tensor(&mine, 1, 1), tensor(&sum, 1, 1)); });
      const bool said = contains(text, "Whether rank 1 ended was not to be seen, for want of pidfd_open") &&
                        contains(text, "seccomp");
      return said == (without == 1) ? "" : text;
    });
    if (contains(results[0] + results[1], "gives no filter")) GTEST_SKIP() << failures(results);
    EXPECT_EQ(failures(results), "") << "rank " << without << " may not call pidfd_open";
  }
}
#endif

/// Ranks that `mixcomm run` starts, with so many files that they or it may open: all say so by themselves.
/// One that rank 0 cannot tell would wait for it, and be ended with what the others have left of their time.
TEST(Descriptors, AreNamedByAllRanksOfAJob) {
  using Texts = std::array<char, 4000>;
  for (int left = 0; left <= 12; ++left) {
    auto* text = static_cast<Texts*>(
        mmap(nullptr, sizeof(Texts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    const pid_t child = fork();
    if (child == 0) {
      leave_descriptors(left);
      std::string said;
      try {
        tools::Job job;
        job.ranks = 8;
        job.grace = milliseconds(20'000);
        job.body = [](int) {
          const std::string life = whole_life(launch_info(), milliseconds(60'000));
          return contains(life, "SystemError: ") && contains(life, "(ulimit -n)") ? 2 : 1;
        };
        const tools::JobEnd end = tools::run_job(job);
        for (const tools::RankEnd& rank : end.failures) said += fmt::format("{}\n", tools::to_string(rank));
        said += fmt::format("{} failed, {}", end.failures.size(), end.exit_code);
      } catch (const SystemError& error) {
        said = error.what();
      }
      said.copy(text->data(), text->size() - 1);
      _exit(0);
    }
    waitpid(child, nullptr, 0);
    const std::string said(text->data());
    munmap(text, sizeof(Texts));
    EXPECT_TRUE(contains(said, "(ulimit -n)") || contains(said, "8 failed, 2")) << left << " left: " << said;
  }
}

}  // namespace
}  // namespace mixcomm::test
