// How ranks find each other, and what they are told when that fails.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <thread>

#include "bootstrap/mailbox.hpp"
#include "bootstrap/message.hpp"
#include "bootstrap/place.hpp"
#include "bootstrap/socket.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"
#include "support/held_port.hpp"
#include "support/spawn.hpp"

namespace mixcomm::test {
namespace {

using std::chrono::milliseconds;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Bootstraps : public testing::TestWithParam<Ranks> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Bootstraps, testing::Values(Ranks::threads, Ranks::processes),
                         [](const auto& instance) {
                           return instance.param == Ranks::threads ? "threads" : "processes";
                         });

TEST_P(Bootstraps, ExchangeGivesEveryonesMessageByRank) {
  const auto results = spawn(GetParam(), 5, [](Bootstrap& b) -> std::string {
    for (int i = 0; i < 50; ++i) {
      const auto mine =
          std::string(static_cast<std::size_t>(b.rank() * 1000), 'x') + std::to_string(b.rank() * 100 + i);
      const auto all = b.exchange("testing", mine);
      for (int r = 0; r < b.world(); ++r)
        if (all[static_cast<std::size_t>(r)] !=
            std::string(static_cast<std::size_t>(r * 1000), 'x') + std::to_string(r * 100 + i))
          return "wrong message";
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Bootstraps, SharedMemoryIsSharedAndZeroed) {
  const auto results = spawn(GetParam(), 3, [](Bootstrap& b) -> std::string {
    const auto memory = b.share_memory(8192);
    if (std::any_of(memory.get() + 8, memory.get() + 8192, [](std::byte x) { return x != std::byte{0}; }))
      return "not zeroed";
    memory.get()[b.rank()] = std::byte{1};
    b.exchange("writing", "");
    for (int r = 0; r < 3; ++r)
      if (memory.get()[r] != std::byte{1}) return "not shared";
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Bootstraps, AMissingRankIsNamedWithinTheDeadline) {
  const auto results = spawn(
      GetParam(), 4,
      [](Bootstrap& b) -> std::string {
        if (b.rank() == 2) {
          std::this_thread::sleep_for(milliseconds(1200));
          return "";
        }
        const auto start = std::chrono::steady_clock::now();
        try {
          b.exchange("comparing notes", "");
        } catch (const Timeout& error) {
          const auto waited = std::chrono::steady_clock::now() - start;
          if (error.missing() != std::vector{2} || !contains(error.what(), "comparing notes"))
            return error.what();
          return waited < milliseconds(1000) ? "" : "too late";
        }
        return "no error";
      },
      milliseconds(400));
  EXPECT_EQ(failures(results), "");
}

TEST_P(Bootstraps, RanksInDifferentStepsAreToldSo) {
  const auto results = spawn(GetParam(), 3, [](Bootstrap& b) -> std::string {
    try {
      b.exchange(b.rank() == 1 ? "making tea" : "making coffee", "");
    } catch (const Disagreement& error) {
      return contains(error.what(), "rank 1 is making tea") ? "" : error.what();
    }
    return "no error";
  });
  EXPECT_EQ(failures(results), "");
}

// --- processes: the rendezvous
// -------------------------------------------------------------------------------------------

LaunchInfo job(int rank, int world, int port, std::string secret = "the secret of this job") {
  return {"test", rank, world, "127.0.0.1", port, std::move(secret)};
}

TEST(Rendezvous, ARankThatNeverComesIsNamedToAll) {
  const HeldPort held;
  const int port = held.number();
  std::string zero;
  std::string two;
  std::thread a([&] {
    zero = error_of<Timeout>([&] { (void)bootstrap_processes(job(0, 3, port), milliseconds(500)); });
  });
  std::thread b([&] {
    two = error_of<Timeout>([&] { (void)bootstrap_processes(job(2, 3, port), milliseconds(500)); });
  });
  a.join();
  b.join();
  EXPECT_TRUE(contains(zero, "rank 1 did not come")) << zero;
  EXPECT_TRUE(contains(two, "rank 1 did not come")) << two;
}

TEST(Rendezvous, NoRankZeroIsATimeoutThatSaysWhere) {
  const HeldPort held;
  const int port = held.number();
  const auto text = error_of<Timeout>([&] { (void)bootstrap_processes(job(1, 2, port), milliseconds(300)); });
  EXPECT_TRUE(contains(text, "found nobody at 127.0.0.1:" + std::to_string(port))) << text;
}

TEST(Rendezvous, APortInUseIsSaid) {
  const Fd other = listen_on("127.0.0.1", 0);
  const auto text =
      error_of<SystemError>([&] { (void)bootstrap_processes(job(0, 2, port_of(other)), milliseconds(300)); });
  EXPECT_TRUE(contains(text, "is in use by another program")) << text;
}

TEST(Rendezvous, AnUnknownHostIsSaid) {
  const auto text = error_of<SystemError>([] {
    (void)bootstrap_processes({"test", 1, 2, "no-such-host.invalid", 1234, ""}, milliseconds(300));
  });
  EXPECT_TRUE(contains(text, "no-such-host.invalid")) << text;
}

TEST(Rendezvous, StrangersAndOtherJobsAreKeptOut) {
  const HeldPort held;
  const int port = held.number();
  std::string wrong_secret;
  std::string wrong_world;
  std::string zero = "?";
  std::string one = "?";
  std::thread a([&] {
    zero = error_of<Error>([&] { (void)bootstrap_processes(job(0, 2, port), milliseconds(5000)); });
  });
  {
    const Deadline deadline(milliseconds(2000));
    const Fd noise = connect_by("127.0.0.1", port, deadline);
    ASSERT_TRUE(send_message(noise, "GET / HTTP/1.1", deadline));
    const Fd nested = connect_by("127.0.0.1", port, deadline);
    ASSERT_TRUE(send_message(nested, std::string(1000, '\x91'), deadline));
    const Fd silent = connect_by("127.0.0.1", port, deadline);
    wrong_secret = error_of<Disagreement>(
        [&] { (void)bootstrap_processes(job(1, 2, port, "other"), milliseconds(2000)); });
    wrong_world =
        error_of<Disagreement>([&] { (void)bootstrap_processes(job(1, 4, port), milliseconds(2000)); });
  }
  one = error_of<Error>([&] { (void)bootstrap_processes(job(1, 2, port), milliseconds(2000)); });
  a.join();
  EXPECT_TRUE(contains(wrong_secret, "another MIXCOMM_SECRET")) << wrong_secret;
  EXPECT_TRUE(contains(wrong_world, "started for 4 ranks, but rank 0 for 2")) << wrong_world;
  EXPECT_EQ(zero, "no error");
  EXPECT_EQ(one, "no error");
}

TEST(Rendezvous, AnEndedRankIsNamedAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  const auto results = spawn(Ranks::processes, 3, [](Bootstrap& b) -> std::string {
    if (b.rank() == 1) return "";
    try {
      b.exchange("waiting", "");
    } catch (const Timeout& error) {
      return error.missing() == std::vector{1} ? "" : error.what();
    }
    return "no error";
  });
  EXPECT_EQ(failures(results), "");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(Rendezvous, SilentConnectionsDelayNobody) {
  const HeldPort held;
  const int port = held.number();
  std::string zero = "?";
  std::thread a([&] {
    zero = error_of<Error>([&] { (void)bootstrap_processes(job(0, 2, port), milliseconds(1500)); });
  });
  std::vector<Fd> silent;
  for (int i = 0; i < 100; ++i) {
    silent.push_back(connect_by("127.0.0.1", port, Deadline(milliseconds(2000))));
    EXPECT_TRUE(silent.back().valid());
  }
  pollfd first{silent[0].get(), POLLIN, 0};
  EXPECT_EQ(poll(&first, 1, 1000), 1) << "the first to come should have made room for the others";
  const auto one = error_of<Error>([&] { (void)bootstrap_processes(job(1, 2, port), milliseconds(1500)); });
  a.join();
  EXPECT_EQ(zero, "no error");
  EXPECT_EQ(one, "no error");
}

TEST(Rendezvous, ASilentConnectionIsDroppedInTheEnd) {
  const HeldPort held;
  const int port = held.number();
  std::thread a([&] {
    (void)error_of<Timeout>([&] { (void)bootstrap_processes(job(0, 2, port), milliseconds(5000)); });
  });
  const Fd silent = connect_by("127.0.0.1", port, Deadline(milliseconds(2000)));
  pollfd entry{silent.get(), POLLIN, 0};
  EXPECT_EQ(poll(&entry, 1, 4000), 1);
  const auto one = error_of<Error>([&] { (void)bootstrap_processes(job(1, 2, port), milliseconds(2000)); });
  a.join();
  EXPECT_EQ(one, "no error");
}

TEST(Rendezvous, WhoIsTurnedAwayWithoutAWordComesAgain) {
  Fd listener = listen_on("127.0.0.1", 0);
  const int port = port_of(listener);
  std::string one = "?";
  std::thread a([&] {
    one = error_of<Error>([&] { (void)bootstrap_processes(job(1, 2, port), milliseconds(3000)); });
  });
  EXPECT_TRUE(accept_by(listener, Deadline(milliseconds(2000))).valid());  // and closed at once
  listener.reset();
  const auto zero = error_of<Error>([&] { (void)bootstrap_processes(job(0, 2, port), milliseconds(3000)); });
  a.join();
  EXPECT_EQ(zero, "no error");
  EXPECT_EQ(one, "no error");
}

TEST(Rendezvous, OnlyAListenerOnItsPortIsInherited) {
  const Fd elsewhere = listen_on("127.0.0.1", 0);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Fd read_end(ends[0]);
  const Fd write_end(ends[1]);
  for (const Fd* other : {&elsewhere, &read_end}) {
    const HeldPort held;
    const int port = held.number();
    setenv("MIXCOMM_LISTENER", std::to_string(other->get()).c_str(), 1);
    std::string zero = "?";
    std::thread a([&] {
      zero = error_of<Error>([&] { (void)bootstrap_processes(job(0, 2, port), milliseconds(1000)); });
    });
    const auto one = error_of<Error>([&] { (void)bootstrap_processes(job(1, 2, port), milliseconds(1000)); });
    a.join();
    unsetenv("MIXCOMM_LISTENER");
    EXPECT_EQ(zero, "no error");
    EXPECT_EQ(one, "no error");
    EXPECT_NE(fcntl(other->get(), F_GETFD), -1) << "closed, though it is not ours";
  }
}

TEST(Rendezvous, AFailedStepStaysFailed) {
  const auto results = spawn(
      Ranks::processes, 3,
      [](Bootstrap& b) -> std::string {
        if (b.rank() == 2) std::this_thread::sleep_for(milliseconds(1500));
        std::string first;
        for (int i = 0; i < 3; ++i) {
          const auto text =
              error_of<Timeout>([&] { b.exchange("comparing", "attempt " + std::to_string(i)); });
          if (text == "no error") return "attempt " + std::to_string(i) + " went through";
          if (i == 0) first = text;
          if (text != first) return "another error: " + text;
        }
        return "";
      },
      milliseconds(500));
  EXPECT_EQ(failures(results), "");
}

TEST(Rendezvous, OneAfterTheOtherAtTheSamePlace) {
  constexpr int world = 8;
  const HeldPort held;
  const int port = held.number();
  std::vector<std::string> errors(world);
  std::vector<std::thread> ranks;
  for (int r = 0; r < world; ++r)
    ranks.emplace_back([&, r] {
      errors[static_cast<std::size_t>(r)] = error_of<Error>([&] {
        for (int i = 0; i < 30; ++i)
          bootstrap_processes(job(r, world, port), milliseconds(10'000))->exchange("counting", "");
      });
    });
  for (auto& rank : ranks) rank.join();
  for (const auto& error : errors) EXPECT_EQ(error, "no error");
}

/// What rank 1 says when `host` answers it in place of rank 0.
std::string visit(const std::function<void(const Fd& peer, const Deadline& deadline)>& host) {
  const Fd listener = listen_on("127.0.0.1", 0);
  std::thread hostile([&] {
    const Deadline deadline(milliseconds(3000));
    const Fd peer = accept_by(listener, deadline);
    host(peer, deadline);
    std::string message;
    (void)receive_message(peer, message, deadline);
  });
  const auto text =
      error_of<Error>([&] { (void)bootstrap_processes(job(1, 2, port_of(listener)), milliseconds(2000)); });
  hostile.join();
  return text;
}

TEST(Rendezvous, WhoDoesNotSpeakItIsNotRankZero) {
  for (const std::string& said : {std::string("220 mail.example ESMTP"),
                                  std::string(max_message_bytes, '\x91'), to_bytes(Welcome{{0, 1}, {}})}) {
    const auto text =
        visit([&](const Fd& peer, const Deadline& deadline) { (void)send_message(peer, said, deadline); });
    EXPECT_TRUE(contains(text, "is not rank 0")) << text;
  }
}

/// Rank 0 has to prove that it knows the secret, too: it is told where memory is.
TEST(Rendezvous, WhoDoesNotKnowTheSecretIsNotRankZero) {
  std::optional<Hello> hello;
  const auto answer = [&](const std::function<std::string(const std::string&)>& to) {
    return visit([&](const Fd& peer, const Deadline& deadline) {
      (void)send_message(peer, to_bytes(Challenge{make_nonce()}), deadline);
      std::string message;
      if (receive_message(peer, message, deadline) != Received::message) return;
      hello = only<Hello>(message);
      (void)send_message(peer, to(message), deadline);
    });
  };
  const std::map<std::string, std::function<std::string(const std::string&)>> answers{
      {"nothing proven",
       [](const std::string&) {
         return to_bytes(Welcome{{0, 1}, {}});
       }},
      {"the rank's own proof",
       [&](const std::string&) {
         return to_bytes(Welcome{{0, 1}, hello->proof});
       }},
      {"an echo", [](const std::string& heard) { return heard; }},
      {"another challenge", [](const std::string&) { return to_bytes(Challenge{}); }},
      {"deep nesting", [](const std::string&) { return std::string(max_message_bytes, '\x91'); }}};
  for (const auto& [what, to] : answers) {
    const auto text = answer(to);
    EXPECT_TRUE(contains(text, "is not rank 0")) << what << ": " << text;
    ASSERT_TRUE(hello.has_value());
    EXPECT_FALSE(contains(to_bytes(*hello), job(1, 2, 1).secret)) << "the secret itself was told";
  }
}

TEST_P(Bootstraps, SharingDifferentSizesIsSaidAtOnce) {
  const auto results = spawn(GetParam(), 3, [](Bootstrap& b) -> std::string {
    const auto text = error_of<Disagreement>([&] { (void)b.share_memory(b.rank() == 1 ? 8192 : 4096); });
    return contains(text, "rank 1 shares 8192 bytes") ? "" : text;
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Bootstraps, AMessageThatIsTooLongIsRefused) {
  const auto results = spawn(GetParam(), 2, [](Bootstrap& b) -> std::string {
    const auto text =
        error_of<InvalidArgument>([&] { b.exchange("shouting", std::string(max_exchange_bytes + 1, 'a')); });
    return contains(text, "is longer than") && b.exchange("talking", "a").size() == 2 ? "" : text;
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Bootstraps, MemoryThatCannotBeMadeIsToldToAll) {
  const auto results = spawn(GetParam(), 3, [](Bootstrap& b) -> std::string {
    const auto text = error_of<SystemError>([&] { (void)b.share_memory(std::size_t{1} << 63U); });
    return contains(text, "9223372036854775808 bytes of shared memory") &&
                   b.exchange("going on", "").size() == 3
               ? ""
               : text;
  });
  EXPECT_EQ(failures(results), "");
}

// --- descriptors
// ---------------------------------------------------------------------------------------------------------

Fd memory_with(const std::string& text) {
  Fd fd(memfd_create("test", MFD_CLOEXEC));
  return fd.valid() && write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())
             ? std::move(fd)
             : Fd();
}

std::string contents(const Fd& fd) {
  char text[64] = {};
  const ssize_t n = pread(fd.get(), text, sizeof(text), 0);
  return n < 0 ? "nothing" : std::string(text, static_cast<std::size_t>(n));
}

int open_descriptors() {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

TEST_P(Bootstraps, DescriptorsOfAllRanksComeByRank) {
  for (const int world : {1, 4, 16}) {
    const auto results = spawn(GetParam(), world, [](Bootstrap& b) -> std::string {
      for (int i = 0; i < 3; ++i) {
        Fd mine = memory_with(fmt::format("rank {}, round {}", b.rank(), i));
        const std::vector<Fd> all = b.exchange_descriptors("passing", mine.get());
        if (all.size() != static_cast<std::size_t>(b.world())) return fmt::format("{} came", all.size());
        if (contents(mine) != contents(all[static_cast<std::size_t>(b.rank())])) return "mine is another's";
        mine.reset();
        b.exchange("closing", "");
        for (int r = 0; r < b.world(); ++r)
          if (contents(all[static_cast<std::size_t>(r)]) != fmt::format("rank {}, round {}", r, i))
            return fmt::format("in place of rank {}'s: {}", r, contents(all[static_cast<std::size_t>(r)]));
      }
      return "";
    });
    EXPECT_EQ(failures(results), "") << world;
  }
}

TEST_P(Bootstraps, NotEveryRankNeedsToGiveADescriptor) {
  const auto results = spawn(GetParam(), 4, [](Bootstrap& b) -> std::string {
    for (const std::vector<int>& givers : {std::vector{2}, std::vector{0, 3}, std::vector<int>()}) {
      const bool gives = std::ranges::find(givers, b.rank()) != givers.end();
      const Fd mine = gives ? memory_with(fmt::format("rank {}", b.rank())) : Fd();
      const std::vector<Fd> all = b.exchange_descriptors("passing", mine.get());
      for (int r = 0; r < 4; ++r) {
        const Fd& fd = all[static_cast<std::size_t>(r)];
        const bool gave = std::ranges::find(givers, r) != givers.end();
        if (fd.valid() != gave || (gave && contents(fd) != fmt::format("rank {}", r)))
          return fmt::format("rank {} {}", r, gave ? "gave one" : "gave none");
      }
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Descriptors, NoneStayOpen) {
  const auto results = spawn(Ranks::processes, 4, [](Bootstrap& b) -> std::string {
    const Fd mine = memory_with("x");
    (void)b.exchange_descriptors("passing", mine.get());
    const int before = open_descriptors();
    for (int i = 0; i < 10; ++i) (void)b.exchange_descriptors("passing", mine.get());
    return open_descriptors() == before ? ""
                                        : fmt::format("{} are open, then {}", before, open_descriptors());
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Bootstraps, ADescriptorThatIsNoneIsToldToAll) {
  const auto results = spawn(GetParam(), 3, [](Bootstrap& b) -> std::string {
    const Fd good = memory_with("x");
    const auto text = error_of<SystemError>(
        [&] { (void)b.exchange_descriptors("passing", b.rank() == 1 ? 12'345 : good.get()); });
    if (!contains(text, "cannot duplicate descriptor 12345")) return text;
    return b.exchange_descriptors("passing", good.get()).size() == 3 ? "" : "it did not go on";
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Bootstraps, ARankThatBringsNoDescriptorInTimeIsNamed) {
  const auto results = spawn(
      GetParam(), 4,
      [](Bootstrap& b) -> std::string {
        if (b.rank() == 2) {
          std::this_thread::sleep_for(milliseconds(1200));
          return "";
        }
        const Fd mine = memory_with("x");
        try {
          (void)b.exchange_descriptors("passing", mine.get());
        } catch (const Timeout& error) {
          return error.missing() == std::vector{2} ? "" : error.what();
        }
        return "no error";
      },
      milliseconds(400));
  EXPECT_EQ(failures(results), "");
}

TEST(Descriptors, ARankThatComesWithoutItsDescriptorIsNamed) {
  const auto results = spawn(
      Ranks::processes, 4,
      [](Bootstrap& b) -> std::string {
        const Fd mine = memory_with("x");
        try {
          if (b.rank() == 2) {  // promises one, and sends none
            (void)b.exchange("comparing hosts", host_identity());
            const Mailbox mailbox = open_mailbox();
            b.exchange("passing", "+" + mailbox.name);
            b.exchange("passing: taking descriptors", "");
            return "";
          }
          (void)b.exchange_descriptors("passing", mine.get());
        } catch (const Timeout& error) {
          return error.missing() == std::vector{2} &&
                         contains(error.what(), "descriptor of rank 2 while passing")
                     ? ""
                     : error.what();
        }
        return "no error";
      },
      milliseconds(400));
  EXPECT_EQ(failures(results), "");
}

TEST(Descriptors, StayWithinOneHost) {
  const auto results = spawn(Ranks::processes, 3, [](Bootstrap& b) -> std::string {
    const Fd mine = memory_with("x");
    if (b.rank() == 1) {
      b.exchange("comparing hosts", "elsewhere");
      return "";
    }
    const auto text = error_of<Unsupported>([&] { (void)b.exchange_descriptors("passing", mine.get()); });
    return contains(text, "rank 1 run on another host than rank 0") ? "" : text;
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Bootstraps, RanksOfOneMachineAreOnOneHost) {
  const auto results = spawn(GetParam(), 3, [](Bootstrap& b) -> std::string {
    const Hosts hosts = b.hosts();
    return hosts.count() == 1 && hosts.of == std::vector{0, 0, 0} && b.own_host() == nullptr ? "" : "several";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(HostsOfRanks, AreNumberedByTheirFirstRanks) {
  const Hosts hosts = Hosts::from_identities({"b", "b", "a", "c", "a"});
  EXPECT_EQ(hosts.of, (std::vector{0, 0, 1, 2, 1}));
  EXPECT_EQ(hosts.names, (std::vector<std::string>{"b", "a", "c"}));
  EXPECT_EQ(hosts.ranks_on(1), (std::vector{2, 4}));
}

TEST(HostsOfRanks, ProcessesSeeWhoIsElsewhere) {
  const auto results = spawn(Ranks::processes, 3, [](Bootstrap& b) -> std::string {
    if (b.rank() == 1) {
      b.exchange("comparing hosts", "elsewhere");
      return "";
    }
    return b.hosts().of == std::vector{0, 1, 0} ? "" : "not seen";
  });
  EXPECT_EQ(failures(results), "");
}

/// Hosts make steps of their own: here each another number of them, with other names.
TEST(HostsOfRanks, ThoseOfAHostMeetByThemselves) {
  const auto results = spawn(Ranks::processes, 5, [](Bootstrap& b) -> std::string {
    const std::vector<int> of{0, 0, 1, 2, 1};
    const int host = of[static_cast<std::size_t>(b.rank())];
    setenv("NCCL_HOSTID", fmt::format("machine {}", host).c_str(), 1);
    if (b.hosts().of != of) return "wrong hosts";
    Bootstrap* own = b.own_host();
    if (own == nullptr || own != b.own_host() || b.transport() != nullptr) return "no host of its own";
    const std::vector<int> ranks = b.hosts().ranks_on(host);
    if (own->world() != static_cast<int>(ranks.size())) return "wrong ranks";
    for (int step = 0; step <= host; ++step)
      for (int m = 0; m < own->world(); ++m)
        if (own->rank_in_whole(m) != ranks[static_cast<std::size_t>(m)] ||
            own->exchange(fmt::format("step {}", step),
                          std::to_string(b.rank()))[static_cast<std::size_t>(m)] !=
                std::to_string(ranks[static_cast<std::size_t>(m)]))
          return "wrong member";
    const auto memory = own->share_memory(64);
    memory.get()[own->rank()] = static_cast<std::byte>(b.rank() + 1);
    (void)own->exchange("written", "");
    for (int m = 0; m < own->world(); ++m)
      if (memory.get()[m] != static_cast<std::byte>(ranks[static_cast<std::size_t>(m)] + 1))
        return "not shared";
    return own->processes().size() == ranks.size() ? "" : "wrong processes";
  });
  EXPECT_EQ(failures(results), "");
}

/// Without a transport between hosts' memory, CPU ranks stay on one.
TEST(HostsOfRanks, CpuRanksOfSeveralAreRefusedWithoutATransport) {
  const auto results = spawn(Ranks::processes, 2, [](Bootstrap& b) -> std::string {
    setenv("NCCL_HOSTID", std::to_string(b.rank()).c_str(), 1);
    const auto text = error_of<Unsupported>([&] { const Communicator communicator(b, {.tp = 1, .dp = 2}); });
    return contains(text, "rank 1 run on another host than rank 0") && contains(text, "which NCCL joins")
               ? ""
               : text;
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Bootstraps, RanksOfOneProcessKnowIt) {
  const auto results = spawn(GetParam(), 3, [](Bootstrap& b) -> std::string {
    const auto hosts = b.exchange("hosts", host_identity());
    if (hosts[0] != hosts[2]) return "not on one host";
    const auto processes = b.exchange("processes", process_identity());
    return (processes[0] == processes[2]) == (GetParam() == Ranks::threads) ? "" : processes[2];
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Timeouts, AreFromOneMillisecondToOneYear) {
  for (const Milliseconds wrong :
       {Milliseconds(0), Milliseconds(-1), Milliseconds(std::chrono::hours(24 * 366)), Milliseconds::max()}) {
    const auto threads = error_of<InvalidArgument>([&] { (void)bootstrap_threads(1, wrong); });
    const auto processes = error_of<InvalidArgument>([&] { (void)bootstrap_processes(job(0, 1, 1), wrong); });
    EXPECT_TRUE(contains(threads, "it may be 1 to")) << threads;
    EXPECT_TRUE(contains(processes, "it may be 1 to")) << processes;
  }
}

TEST(Threads, WhoWaitsForARankThatLeftIsToldWhy) {
  std::string told;
  try {
    run_threads(2, [&](Bootstrap& b) {
      if (b.rank() == 1) throw InvalidArgument("no weights");
      told = error_of<Timeout>([&] { b.exchange("waiting", ""); });
    });
  } catch (const InvalidArgument&) {  // NOLINT(bugprone-empty-catch): another test's
  }
  EXPECT_EQ(told, "rank 1 left set-up with: no weights");
}

TEST(Threads, TheCauseIsRethrownNotWhatFollowsFromIt) {
  const auto start = std::chrono::steady_clock::now();
  const auto text = error_of<InvalidArgument>([] {
    run_threads(3, [](Bootstrap& b) {
      if (b.rank() == 1) throw InvalidArgument("no weights");
      b.exchange("waiting", "");
    });
  });
  EXPECT_EQ(text, "no weights");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

// --- sockets
// ---------------------------------------------------------------------------------------------------------

/// In a network of its own, in which the system has a single port to hand out: the one that is connected to.
int connect_to_the_only_port() {
  constexpr int refused = 77;
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0 && unshare(CLONE_NEWNET) != 0) return refused;
  const Fd any(socket(AF_INET, SOCK_DGRAM, 0));
  ifreq lo{};
  std::strcpy(lo.ifr_name, "lo");
  lo.ifr_flags = IFF_UP;
  if (ioctl(any.get(), SIOCSIFFLAGS, &lo) != 0) return refused;
  std::ofstream range("/proc/sys/net/ipv4/ip_local_port_range");
  range << "40000 40001" << std::flush;
  if (!range) return refused;
  for (int i = 0; i < 4; ++i)
    for (const int port : {40000, 40001})
      if (connect_by("127.0.0.1", port, Deadline(milliseconds(50))).valid()) return 1;
  return 0;
}

TEST(Sockets, NobodyConnectsToItself) {
  const pid_t child = fork();
  if (child == 0) _exit(connect_to_the_only_port());
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "this system gives no network namespace";
  EXPECT_EQ(WEXITSTATUS(status), 0) << "a port where nobody listens was connected to";
}

/// A queue of connections that is full swallows what comes, as a firewall does.
TEST(Sockets, AnAddressThatSwallowsPacketsDoesNotKeepFromTheNext) {
  const Fd full(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Endpoint silent;
  silent.size = sizeof(silent.address);
  ASSERT_EQ(listen(full.get(), 0), 0);
  ASSERT_EQ(getsockname(full.get(), reinterpret_cast<sockaddr*>(&silent.address), &silent.size), 0);
  reinterpret_cast<sockaddr_in*>(&silent.address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::vector<Fd> queued;
  const milliseconds patience(300);
  for (int i = 0; i < 8; ++i) {
    queued.push_back(connect_to_first({&silent, 1}, Deadline(patience)));
    if (!queued.back().valid()) break;
  }
  if (queued.back().valid()) GTEST_SKIP() << "this system takes in connections without a bound";

  const Fd answers = listen_on("127.0.0.1", 0);
  Endpoint good;
  good.size = sizeof(good.address);
  ASSERT_EQ(getsockname(answers.get(), reinterpret_cast<sockaddr*>(&good.address), &good.size), 0);
  const std::vector<Endpoint> both{silent, good};
  EXPECT_TRUE(connect_to_first(both, Deadline(patience)).valid());
}

TEST(Sockets, AMessageInPartsIsTakenAsItComes) {
  const Fd listener = listen_on("127.0.0.1", 0);
  const Deadline deadline(milliseconds(2000));
  const Fd sender = connect_by("127.0.0.1", port_of(listener), deadline);
  const Fd receiver = accept_by(listener, deadline);
  PartialMessage partial;
  const std::string framed{"\5\0\0\0hello", 9};
  for (std::size_t i = 0; i < framed.size(); ++i) {
    EXPECT_EQ(receive_part(receiver, partial, 5), Received::late) << i;
    ASSERT_EQ(send(sender.get(), &framed[i], 1, 0), 1);
    pollfd entry{receiver.get(), POLLIN, 0};
    ASSERT_EQ(poll(&entry, 1, 2000), 1);
  }
  EXPECT_EQ(receive_part(receiver, partial, 5), Received::message);
  EXPECT_EQ(partial.bytes, "hello");
  PartialMessage too_long;
  ASSERT_TRUE(send_message(sender, "longer", deadline));
  pollfd entry{receiver.get(), POLLIN, 0};
  ASSERT_EQ(poll(&entry, 1, 2000), 1);
  EXPECT_EQ(receive_part(receiver, too_long, 5), Received::closed);
}

TEST(Sockets, AFullMailboxIsAnError) {
  const Mailbox mailbox = open_mailbox();
  const int fd = mailbox.socket.get();
  EXPECT_THROW(
      {
        for (int i = 0; i < 2000; ++i)
          send_parcel(mailbox, mailbox.name, "", {&fd, 1}, Deadline(milliseconds(50)));
      },
      SystemError);
}

TEST(Sockets, AParcelArrivesWhole) {
  const Mailbox mailbox = open_mailbox();
  const std::vector<int> many(max_parcel, mailbox.socket.get());
  const std::string note(max_parcel, '\0');
  send_parcel(mailbox, mailbox.name, note, many, Deadline(milliseconds(1000)));
  send_parcel(mailbox, mailbox.name, "none", {}, Deadline(milliseconds(1000)));
  const auto first = receive_parcel(mailbox, Deadline(milliseconds(1000)));
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->note, note);
  EXPECT_EQ(first->descriptors.size(), max_parcel);
  const auto second = receive_parcel(mailbox, Deadline(milliseconds(1000)));
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->note, "none");
  EXPECT_TRUE(second->descriptors.empty());
  EXPECT_FALSE(receive_parcel(mailbox, Deadline(milliseconds(0))).has_value());
}

/// False where this process may not act as another user.
bool send_as_another_user(const std::string& mailbox_name, int fd) {
  const pid_t child = fork();
  if (child == 0) {
    constexpr uid_t nobody = 65534;
    if (setresuid(nobody, nobody, nobody) != 0) _exit(1);
    send_parcel(open_mailbox(), mailbox_name, "", {&fd, 1}, Deadline(milliseconds(1000)));
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0;
}

TEST(Sockets, AnotherUsersDescriptorsAreClosed) {
  const Mailbox mailbox = open_mailbox();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK), 0);
  const Fd read_end(ends[0]);
  {
    const Fd write_end(ends[1]);
    if (!send_as_another_user(mailbox.name, write_end.get()))
      GTEST_SKIP() << "this user cannot act as another";
    send_parcel(mailbox, mailbox.name, "ours", {}, Deadline(milliseconds(1000)));
    const auto parcel = receive_parcel(mailbox, Deadline(milliseconds(1000)));
    EXPECT_TRUE(parcel && parcel->note == "ours");
  }
  char byte = 0;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 0) << "somebody still holds the other end";
}

TEST(Sockets, AFloodOfOtherMessagesDoesNotHoldUpTheDeadline) {
  const Mailbox mailbox = open_mailbox();
  for (int i = 0; i < 3; ++i)
    if (!send_as_another_user(mailbox.name, mailbox.socket.get()))
      GTEST_SKIP() << "this user cannot act as another";
  EXPECT_FALSE(receive_parcel(mailbox, Deadline(milliseconds(0))).has_value());
  pollfd entry{mailbox.socket.get(), POLLIN, 0};
  EXPECT_EQ(poll(&entry, 1, 0), 1) << "it went on reading past its deadline";
}

}  // namespace
}  // namespace mixcomm::test
