// What happens when a rank is late, missing, killed, or makes another call: bounded waits, errors that name
// the rank.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"
#include "support/spawn.hpp"

namespace mixcomm::test {
namespace {

using std::chrono::milliseconds;

void reduce(Communicator& communicator, CallOptions options = {}) {
  std::vector<float> data(256, 1.0F);
  communicator.all_reduce_all_gather(tensor(std::as_const(data).data(), 1, 64),
                                     tensor(data.data() + 64, 2, 64), 1, options);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Failures : public testing::TestWithParam<Ranks> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Failures, testing::Values(Ranks::threads, Ranks::processes),
                         [](const auto& instance) {
                           return instance.param == Ranks::threads ? "threads" : "processes";
                         });

TEST_P(Failures, ARankThatNeverComesIsNamedByEveryOther) {
  const auto results = spawn(GetParam(), 4, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2, .dp = 2, .timeout = milliseconds(1000)});
    reduce(communicator);
    if (bootstrap.rank() == 2) {
      std::this_thread::sleep_for(milliseconds(3500));
      return "";
    }
    std::vector<int> missing;
    try {
      reduce(communicator);
      return "no error";
    } catch (const Timeout& error) {
      missing = error.missing();
      if (!contains(error.what(), "all_reduce_all_gather") || !contains(error.what(), "its call 2"))
        return std::string("the message lacks operation or number: ") + error.what();
    }
    try {
      reduce(communicator);
      return "the failed communicator worked";
    } catch (const Timeout&) {
    }
    return missing == std::vector{2} ? "" : "another rank than 2 was named";
  });
  EXPECT_EQ(failures(results), "");
}

/// Rank 0 does not come. Rank 1 waits for it, and rank 3, whose time is up first, for rank 1.
TEST_P(Failures, WhoIsBehindAChainOfWaitsIsNamed) {
  const auto results = spawn(GetParam(), 4, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2, .dp = 2, .timeout = milliseconds(1500)});
    std::vector<float> data(16, 1.0F);
    const auto all = tensor(data.data(), 2, 8);
    const int rank = bootstrap.rank();
    if (rank == 0) {
      std::this_thread::sleep_for(milliseconds(2500));
      return "";
    }
    try {
      if (rank == 1) std::this_thread::sleep_for(milliseconds(600));
      communicator.all_reduce(all, all);
      if (rank == 2) std::this_thread::sleep_for(milliseconds(600));
      communicator.all_gather(tensor(std::as_const(data).data() + 8 * (rank / 2), 1, 8), all, 1);
      return "no error";
    } catch (const Timeout& error) {
      const bool shown = contains(error.what(), "rank 3 waited 1500 ms for rank 0") &&
                         contains(error.what(), "through rank 1, waiting as well");
      return error.missing() == std::vector{0} && shown ? "" : error.what();
    }
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Failures, ALateRankIsNoError) {
  const auto results = spawn(GetParam(), 4, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2, .dp = 2, .timeout = milliseconds(5000)});
    if (bootstrap.rank() == 3) std::this_thread::sleep_for(milliseconds(700));
    reduce(communicator);
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Failures, AKilledProcessIsNamedAndNothingIsLeftBehind) {
  const auto count = [] {
    return std::distance(std::filesystem::directory_iterator("/dev/shm"),
                         std::filesystem::directory_iterator());
  };
  const auto before = count();
  const auto results = spawn(Ranks::processes, 4, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 4, .dp = 1, .timeout = milliseconds(1000)});
    std::vector<float> data(64, 1.0F);
    for (int i = 0;; ++i) {
      if (bootstrap.rank() == 1 && i == 50) std::raise(SIGKILL);
      try {
        communicator.all_reduce(tensor(std::as_const(data).data(), 1, 64), tensor(data.data(), 1, 64));
      } catch (const Timeout& error) {
        return i >= 50 && error.missing() == std::vector{1} ? "" : error.what();
      }
    }
  });
  EXPECT_EQ(results[1], "killed by signal 9");
  for (const int r : {0, 2, 3}) EXPECT_EQ(results[static_cast<std::size_t>(r)], "");
  EXPECT_EQ(count(), before);
}

struct Difference {
  const char* name;
  std::function<void(Communicator&, bool odd)> call;
};

class Disagreements : public testing::TestWithParam<Difference> {};

/// Whether an error names `odd`, and shows both calls.
bool shows_both_calls(const std::string& text, int odd) {
  const bool names = contains(text, fmt::format("rank {} calls", odd));
  const auto first = text.find("its call");
  return names && first != std::string::npos && text.find("its call", first + 1) != std::string::npos;
}

TEST_P(Disagreements, EveryRankLearnsWhoCalledWhat) {
  for (const Ranks kind : {Ranks::threads, Ranks::processes})
    for (const int odd : {0, 1, 3}) {
      const auto results = spawn(kind, 4, [&](Bootstrap& bootstrap) -> std::string {
        Communicator communicator(bootstrap, {.tp = 2, .dp = 2, .timeout = milliseconds(10'000)});
        try {
          for (int i = 0; i < 3; ++i) GetParam().call(communicator, bootstrap.rank() == odd && i == 1);
          reduce(
              communicator);  // ranks that had nothing to do with the odd one learn of it where they need it
          return "no error";
        } catch (const Disagreement& error) {
          return shows_both_calls(error.what(), odd) ? "" : error.what();
        }
      });
      EXPECT_EQ(failures(results), "") << "rank " << odd;
    }
}

std::vector<float>& scratch() {
  thread_local std::vector<float> data(4096, 1.0F);
  return data;
}
ConstTensor in(std::size_t rows, std::size_t hidden = 8) {
  return {scratch().data(), rows, hidden, DType::fp32};
}
Tensor out(std::size_t rows, std::size_t hidden = 8) {
  return {scratch().data() + 2048, rows, hidden, DType::fp32};
}

INSTANTIATE_TEST_SUITE_P(
    All, Disagreements,
    testing::Values(Difference{"operation",
                               [](Communicator& c, bool odd) {
                                 odd ? c.all_gather(in(1), out(2), 1)
                                     : c.all_reduce_all_gather(in(1), out(2), 1);
                               }},
                    Difference{"team",
                               [](Communicator& c, bool odd) {
                                 odd ? c.all_gather(in(1), out(2), 1) : c.all_reduce(in(1), out(1));
                               }},
                    Difference{"rows",
                               [](Communicator& c, bool odd) {
                                 odd ? c.all_reduce_all_gather(in(2), out(4), 2)
                                     : c.all_reduce_all_gather(in(1), out(2), 1);
                               }},
                    Difference{"hidden",
                               [](Communicator& c, bool odd) {
                                 c.all_reduce_all_gather(in(1, odd ? 9 : 8), out(2, odd ? 9 : 8), 1);
                               }},
                    Difference{"dtype",
                               [](Communicator& c, bool odd) {
                                 auto a = in(1);
                                 auto b = out(2);
                                 a.dtype = b.dtype = odd ? DType::bf16 : DType::fp32;
                                 c.all_reduce_all_gather(a, b, 1);
                               }},
                    Difference{"order",
                               [](Communicator& c, bool odd) {
                                 if (odd) c.all_reduce_all_gather(in(1), out(2), 1);
                                 c.reduce_scatter_all_reduce(in(2), out(1), 1);
                                 if (!odd) c.all_reduce_all_gather(in(1), out(2), 1);
                               }},
                    Difference{"algorithm",
                               [](Communicator& c, bool odd) {
                                 c.all_reduce_all_gather(
                                     in(1), out(2), 1,
                                     {.algorithm = odd ? Algorithm::two_shot : Algorithm::one_shot});
                               }}),
    [](const auto& instance) { return instance.param.name; });

/// A DP group that makes a call more than the others must not have its next one taken for theirs.
TEST(Disagreements, ACallTooManyIsFound) {
  for (const Ranks kind : {Ranks::threads, Ranks::processes}) {
    const auto results = spawn(kind, 4, [](Bootstrap& bootstrap) -> std::string {
      Communicator communicator(bootstrap, {.tp = 2, .dp = 2, .timeout = milliseconds(10'000)});
      std::vector<float> data(8, 1.0F);
      const auto view = tensor(data.data(), 1, 8);
      reduce(communicator);
      try {
        if (bootstrap.rank() < 2) communicator.all_reduce(view, view);
        reduce(communicator);
        return "no error";
      } catch (const Disagreement& error) {
        return contains(error.what(), "its call 2") && contains(error.what(), "its call 3") ? ""
                                                                                            : error.what();
      }
    });
    EXPECT_EQ(failures(results), "");
  }
}

TEST(Disagreements, OfPlacesShowsBoth) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2});
    const auto buffer = communicator.allocate(4096);
    float* data = buffer.as<float>() + (bootstrap.rank() == 0 ? 0 : 64);
    try {
      communicator.all_reduce(tensor(std::as_const(data), 1, 64), tensor(data, 1, 64),
                              {.algorithm = Algorithm::two_shot});
      return "no error";
    } catch (const Disagreement& error) {
      return contains(error.what(), "byte 0 of symmetric buffer 1") && contains(error.what(), "byte 256 of")
                 ? ""
                 : error.what();
    }
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Disagreements, SetUpComparesOptionsAndSizes) {
  auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap,
                              {.tp = bootstrap.rank() == 0 ? 2 : 1, .dp = bootstrap.rank() == 0 ? 1 : 2});
    return "no error";
  });
  for (const auto& each : results)
    EXPECT_TRUE(contains(each, "Disagreement: creating a communicator: rank 1 has tp 1")) << each;
  results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2});
    (void)communicator.allocate(bootstrap.rank() == 0 ? 8 : 16);
    return "no error";
  });
  for (const auto& each : results) EXPECT_TRUE(contains(each, "Disagreement: allocating")) << each;
}

TEST(Disagreements, LanesForKernelsAreOfCudaAlone) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2});
    const std::string cpu = error_of<Unsupported>([&] { (void)communicator.device_lanes({}); });
    if (cpu.find("backend cpu has none") == std::string::npos) return cpu;
    const std::string small =
        error_of<InvalidArgument>([&] { (void)communicator.device_lanes({.bytes = 1000}); });
    return small.find("bytes is 1000; it may be") != std::string::npos ? "" : small;
  });
  EXPECT_EQ(failures(results), "");
}

/// What one rank does wrong in set-up is told to all at once, and all can go on.
TEST_P(Failures, WhatOneRankDoesWrongInSetUpIsToldToAll) {
  const auto results = spawn(GetParam(), 3, [](Bootstrap& bootstrap) -> std::string {
    const bool odd = bootstrap.rank() == 1;
    const auto said = [](auto&& call) -> std::string {
      try {
        call();
      } catch (const InvalidArgument& error) {
        return error.what();
      }
      return "no error";
    };
    const auto grid = said([&] { (void)Communicator(bootstrap, {.tp = odd ? 5 : 3}); });
    if (!contains(grid, "rank 1, creating a communicator: a grid of tp 5 x dp 1 needs 5 ranks")) return grid;
    const auto workspace = said(
        [&] { (void)Communicator(bootstrap, {.tp = 3, .workspace_bytes = std::size_t{odd ? 1U : 0U}}); });
    if (!contains(workspace, "rank 1, creating a communicator: workspace_bytes is 1")) return workspace;
    Communicator communicator(bootstrap, {.tp = 3});
    const auto bytes = said([&] { (void)communicator.allocate(odd ? 0 : 4096); });
    if (!contains(bytes, "rank 1, allocating symmetric memory: allocate(0)")) return bytes;
    return communicator.allocate(4096).bytes() == 4096 ? "" : "it did not go on";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Failures, ANewCommunicatorWorksAfterAFailedOne) {
  const auto results = spawn(Ranks::threads, 3, [](Bootstrap& bootstrap) -> std::string {
    {
      Communicator communicator(bootstrap, {.tp = 3, .dp = 1, .timeout = milliseconds(1000)});
      std::vector<float> data(8, 1.0F);
      const auto view = tensor(data.data(), 1, 8);
      try {
        if (bootstrap.rank() != 1) communicator.all_reduce(view, view);
      } catch (const Timeout&) {
      }
    }
    Communicator communicator(bootstrap, {.tp = 3, .dp = 1});
    std::vector<float> data(8, 1.0F);
    communicator.all_reduce(tensor(std::as_const(data).data(), 1, 8), tensor(data.data(), 1, 8));
    return data[0] == 3.0F ? "" : "wrong sum";
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
