// How ranks find each other, and what they are told when that fails.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <thread>

#include "bootstrap/socket.hpp"
#include "mixcomm/mixcomm.hpp"
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

LaunchInfo job(int rank, int world, int port, std::string secret = "s") {
  return {"test", rank, world, "127.0.0.1", port, std::move(secret)};
}

int free_port() {
  return port_of(listen_on("127.0.0.1", 0));
}

template <class E>
std::string error_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const E& error) {
    return error.what();
  }
  return "no error";
}

TEST(Rendezvous, ARankThatNeverComesIsNamedToAll) {
  const int port = free_port();
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
  const int port = free_port();
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
  const int port = free_port();
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
  const int port = free_port();
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

TEST(Rendezvous, WhoEchoesIsNotRankZero) {
  const Fd listener = listen_on("127.0.0.1", 0);
  std::thread echo([&] {
    const Deadline deadline(milliseconds(3000));
    const Fd peer = accept_by(listener, deadline);
    std::string message;
    if (receive_message(peer, message, deadline) == Received::message)
      (void)send_message(peer, message, deadline);
    (void)receive_message(peer, message, deadline);
  });
  const auto text = error_of<Disagreement>(
      [&] { (void)bootstrap_processes(job(1, 2, port_of(listener)), milliseconds(2000)); });
  echo.join();
  EXPECT_TRUE(contains(text, "is not rank 0")) << text;
}

TEST(Rendezvous, DeepNestingFromAPeerIsRefused) {
  const Fd listener = listen_on("127.0.0.1", 0);
  std::thread hostile([&] {
    const Deadline deadline(milliseconds(3000));
    const Fd peer = accept_by(listener, deadline);
    std::string message;
    if (receive_message(peer, message, deadline) == Received::message)
      (void)send_message(peer, std::string(max_message_bytes, '\x91'), deadline);
    (void)receive_message(peer, message, deadline);
  });
  const auto text =
      error_of<Error>([&] { (void)bootstrap_processes(job(1, 2, port_of(listener)), milliseconds(2000)); });
  hostile.join();
  EXPECT_TRUE(contains(text, "malformed")) << text;
}

TEST(Rendezvous, SharingDifferentSizesIsSaidAtOnce) {
  const auto results = spawn(Ranks::processes, 3, [](Bootstrap& b) -> std::string {
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

// --- launchers
// -------------------------------------------------------------------------------------------------------------

class Environment : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name :
         {"MIXCOMM_RANK", "MIXCOMM_WORLD_SIZE", "MIXCOMM_HOST", "MIXCOMM_PORT", "MIXCOMM_SECRET", "RANK",
          "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
          "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_RANK", "PMI_SIZE", "SLURM_PROCID", "SLURM_NTASKS",
          "SLURM_JOB_ID", "SLURM_STEP_ID"})
      unsetenv(name);
  }
  static void set(const std::map<std::string, std::string>& variables) {
    for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
  }
  void TearDown() override { SetUp(); }
};

TEST_F(Environment, NoLauncherIsOneRank) {
  const auto info = launch_info();
  EXPECT_EQ(info.launcher, "");
  EXPECT_EQ(info.world, 1);
}

TEST_F(Environment, MixcommRun) {
  set({{"MIXCOMM_RANK", "2"},
       {"MIXCOMM_WORLD_SIZE", "4"},
       {"MIXCOMM_HOST", "127.0.0.1"},
       {"MIXCOMM_PORT", "1234"},
       {"MIXCOMM_SECRET", "x"}});
  const auto info = launch_info();
  EXPECT_EQ(info.launcher, "mixcomm run");
  EXPECT_EQ(info.rank, 2);
  EXPECT_EQ(info.world, 4);
  EXPECT_EQ(info.port, 1234);
  EXPECT_EQ(info.secret, "x");
}

TEST_F(Environment, Torchrun) {
  set({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node7"}, {"MASTER_PORT", "29500"}});
  const auto info = launch_info();
  EXPECT_EQ(info.launcher, "torchrun");
  EXPECT_EQ(info.host, "node7");
  EXPECT_EQ(info.port, 29501);  // 29500 is the store of torchrun
}

TEST_F(Environment, OpenMpiFindsAPortByItself) {
  set({{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "8"}, {"PMIX_NAMESPACE", "1234567"}});
  const auto info = launch_info();
  EXPECT_EQ(info.launcher, "Open MPI");
  EXPECT_EQ(info.rank, 3);
  EXPECT_GE(info.port, 10'000);
  EXPECT_LT(info.port, 30'000);
  EXPECT_EQ(info.port, launch_info().port);
}

TEST_F(Environment, Slurm) {
  set({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}, {"SLURM_JOB_ID", "77"}, {"SLURM_STEP_ID", "1"}});
  EXPECT_EQ(launch_info().launcher, "Slurm");
  EXPECT_NE(launch_info().port, 0);
}

TEST_F(Environment, MpichNeedsAMeetingPlace) {
  set({{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}});
  EXPECT_TRUE(
      contains(error_of<InvalidArgument>([] { (void)launch_info(); }), "set MASTER_ADDR and MASTER_PORT"));
  set({{"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "2000"}});
  EXPECT_EQ(launch_info().port, 2001);
}

TEST_F(Environment, WrongValuesAreNamed) {
  set({{"RANK", "two"}, {"WORLD_SIZE", "2"}});
  EXPECT_TRUE(contains(error_of<InvalidArgument>([] { (void)launch_info(); }),
                       "RANK=two should be a number from 0 to 1"));
  set({{"RANK", "2"}});
  EXPECT_TRUE(contains(error_of<InvalidArgument>([] { (void)launch_info(); }),
                       "RANK=2 should be a number from 0 to 1"));
  unsetenv("WORLD_SIZE");
  EXPECT_TRUE(contains(error_of<InvalidArgument>([] { (void)launch_info(); }), "WORLD_SIZE is not set"));
}

}  // namespace
}  // namespace mixcomm::test
