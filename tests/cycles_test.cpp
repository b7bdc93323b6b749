// Communicators and bootstraps leave nothing behind: no descriptors, no memory, no mappings, nothing in
// /dev/shm. MIXCOMM_CYCLES: how often each is made and destroyed (1000; 10000 in make cycles).
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "bootstrap/socket.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/held_port.hpp"
#include "support/spawn.hpp"

namespace mixcomm::test {
namespace {

int cycles() {
  const char* text = std::getenv("MIXCOMM_CYCLES");
  return text != nullptr ? std::max(1, std::atoi(text)) : 2000;
}

long entries_of(const char* directory) {
  return std::distance(std::filesystem::directory_iterator(directory), {});
}

/// What this process holds now.
struct Holdings {
  long descriptors = 0;
  long threads = 0;
  long mappings = 0;
  long shm_files = 0;  ///< mapped ones: what else lies in /dev/shm may be other programs'
  long heap_bytes = 0;
  long resident_bytes = 0;
};

Holdings holdings() {
  Holdings now{.descriptors = entries_of("/proc/self/fd"),
               .threads = entries_of("/proc/self/task"),
               .mappings = 0,
               .shm_files = 0,
               .heap_bytes = static_cast<long>(mallinfo2().uordblks),
               .resident_bytes = 0};
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    ++now.mappings;
    if (line.find("/dev/shm/") != std::string::npos) ++now.shm_files;
  }
  long pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  now.resident_bytes = pages * sysconf(_SC_PAGESIZE);
  return now;
}

/// What has grown. A leak of a few bytes a cycle is more than the heap may grow by, which ends with 1 to 4
/// KiB more after 1,000 and after 10,000 cycles; what is resident may vary by some pages.
std::string growth(const Holdings& before, const Holdings& after) {
  std::string text;
  const auto compare = [&](const char* what, long a, long b, long more) {
    if (b > a + more) text += fmt::format("{} {}, then {}; ", what, a, b);
  };
  compare("descriptors", before.descriptors, after.descriptors, 0);
  compare("files in /dev/shm", 0, before.shm_files + after.shm_files, 0);
  compare("threads", before.threads, after.threads, 0);
  compare("mappings", before.mappings, after.mappings, 2);
  compare("bytes of heap", before.heap_bytes, after.heap_bytes, 6144);
  compare("resident bytes", before.resident_bytes, after.resident_bytes, 1L << 20U);
  return text;
}

/// One rank after the other, as ranks may be threads of one process, and counting takes a descriptor.
Holdings holdings_in_turn(Bootstrap& bootstrap) {
  Holdings mine;
  for (int r = 0; r < bootstrap.world(); ++r) {
    bootstrap.exchange("counting", "");
    if (r == bootstrap.rank()) mine = holdings();
    bootstrap.exchange("having counted", "");
  }
  return mine;
}

/// Runs `cycle` a few times, so that what is made once is made, and then `count` times. What has grown.
std::string grows(Bootstrap& bootstrap, int count, const std::function<std::string(int i)>& cycle) {
  Holdings before;
  for (int i = -50; i < count; ++i) {
    if (i == -25 || i == 0) before = holdings_in_turn(bootstrap);  // twice: counting takes memory, too
    if (auto wrong = cycle(i); !wrong.empty()) return wrong;
  }
  const Holdings after = holdings_in_turn(bootstrap);
  if (bootstrap.rank() == 0)
    fmt::print("{} cycles: descriptors {} -> {}, mappings {} -> {}, heap {} -> {}, resident {} -> {} KiB\n",
               count, before.descriptors, after.descriptors, before.mappings, after.mappings,
               before.heap_bytes, after.heap_bytes, before.resident_bytes >> 10, after.resident_bytes >> 10);
  std::fflush(stdout);  // processes of a test end without
  return growth(before, after);
}

std::string communicate(Bootstrap& bootstrap, int i) {
  Communicator communicator(bootstrap, {.tp = bootstrap.world()});
  const SymmetricBuffer buffer = communicator.allocate(4096);
  auto* data = buffer.as<float>();
  std::fill_n(data, 64, static_cast<float>(i % 1000));
  communicator.all_reduce(tensor(std::as_const(data), 1, 64), tensor(data, 1, 64));
  return data[63] == static_cast<float>(i % 1000 * bootstrap.world())
             ? ""
             : fmt::format("a wrong sum in cycle {}", i);
}

class Cycles : public testing::TestWithParam<Ranks> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Cycles, testing::Values(Ranks::threads, Ranks::processes),
                         [](const auto& instance) {
                           return instance.param == Ranks::threads ? "threads" : "processes";
                         });

TEST_P(Cycles, OfCommunicatorsLeaveNothing) {
  const auto results = spawn(GetParam(), 2, [](Bootstrap& bootstrap) {
    return grows(bootstrap, cycles(), [&](int i) {
      if (i % 100 != 99) return communicate(bootstrap, i);
      // Also while one is there.
      Communicator other(bootstrap, {.tp = 1, .dp = 2});
      const std::string wrong = communicate(bootstrap, i);
      const long shm_files = holdings_in_turn(bootstrap).shm_files;
      return wrong.empty() && shm_files != 0 ? fmt::format("{} files in /dev/shm", shm_files) : wrong;
    });
  });
  EXPECT_EQ(failures(results), "");
}

/// One rank makes no call, so the other waits in vain.
TEST_P(Cycles, OfFailedCommunicatorsLeaveNothing) {
  const auto results = spawn(GetParam(), 2, [](Bootstrap& bootstrap) {
    return grows(bootstrap, cycles() / 10, [&](int) -> std::string {
      Communicator communicator(bootstrap, {.tp = 2, .timeout = Milliseconds(1)});
      std::vector<float> data(8);
      try {
        if (bootstrap.rank() == 0)
          communicator.all_reduce(tensor(std::as_const(data).data(), 1, 8), tensor(data.data(), 1, 8));
      } catch (const Timeout&) {
        return "";
      }
      return bootstrap.rank() == 0 ? "no error" : "";
    });
  });
  EXPECT_EQ(failures(results), "");
}

TEST(BootstrapCycles, LeaveNothing) {
  const HeldPort held;
  const int port = held.number();
  const auto results = spawn(Ranks::processes, 2, [&](Bootstrap& outer) {
    return grows(outer, cycles() / 10, [&](int i) -> std::string {
      // In turn over TCP with a secret and over a Unix socket without one, then on without the other rank.
      const auto inner = bootstrap_processes(
          {"test", outer.rank(), 2, "127.0.0.1", port, i % 2 == 0 ? "the secret of this job" : ""});
      if (auto wrong = communicate(*inner, i); !wrong.empty()) return wrong;
      const Survivors alone = inner->survivors(std::vector{1 - outer.rank()});
      return alone.bootstrap->world() == 1 ? communicate(*alone.bootstrap, i) : "somebody else went on";
    });
  });
  EXPECT_EQ(failures(results), "");
}

/// The test of the test.
TEST(Holdings, AGrowthIsSeen) {
  const Holdings before = holdings();
  EXPECT_EQ(growth(before, before), "");
  const Fd kept = listen_on("127.0.0.1", 0);
  EXPECT_NE(growth(before, holdings()), "");
}

}  // namespace
}  // namespace mixcomm::test
