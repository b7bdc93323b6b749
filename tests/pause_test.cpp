// Memory is given back, and comes again at the same addresses, on the CPU backend.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"
#include "support/spawn.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t bytes = 16 * page;

/// How many pages of it are in memory.
std::ptrdiff_t resident_pages(std::byte* data) {
  std::vector<unsigned char> pages(bytes / page);
  if (mincore(data, bytes, pages.data()) != 0) throw SystemError("mincore");
  return std::count_if(pages.begin(), pages.end(), [](unsigned char each) { return (each & 1U) != 0; });
}

/// Every operation and algorithm in plain and in symmetric memory; each time other inputs.
std::string run_some(verify::Verifier& verifier, int dp, std::uint64_t seed) {
  using enum verify::Buffers;
  for (int i = 0; i < 40; ++i) {
    verify::Case c{.op = static_cast<Op>(i % 5),
                   .algorithm = static_cast<Algorithm>(1 + i % 3),
                   .dtype = static_cast<DType>(i % 3),
                   .buffers = i / 5 % 2 == 0 ? plain : symmetric,
                   .values = verify::Values::floats,
                   .hidden = 33,
                   .seed = seed * 1000 + static_cast<std::uint64_t>(i)};
    for (int d = 0; d < dp; ++d) c.rows.push_back(static_cast<std::size_t>((i + d) % 4));
    if (std::string wrong = verifier.run(c); !wrong.empty()) return wrong;
  }
  return "";
}

std::string one_pause(Bootstrap& bootstrap, Communicator& communicator, SymmetricBuffer& buffer) {
  std::byte* const data = buffer.data();
  std::fill_n(data, bytes, std::byte{1});
  if (resident_pages(data) == 0) return "nothing is there to be given back";
  (void)bootstrap.exchange("writing", "");
  communicator.pause();
  if (!communicator.paused()) return "not paused";
  communicator.pause();  // once more does nothing
  if (resident_pages(data) != 0) return "the memory was not given back";
  float x = 1;
  for (const std::string& refused :
       {error_of<InvalidArgument>([&] { communicator.all_reduce(tensor(&x, 1, 1), tensor(&x, 1, 1)); }),
        error_of<InvalidArgument>([&] { (void)communicator.allocate(page); }),
        error_of<InvalidArgument>([&] { communicator.clear(tensor(&x, 1, 1)); })})
    if (refused.find("paused") == std::string::npos || refused.find("resume()") == std::string::npos)
      return "not refused: " + refused;
  communicator.resume();
  communicator.resume();
  if (communicator.paused()) return "still paused";
  if (buffer.data() != data) return "the memory is elsewhere";
  if (std::any_of(data, data + bytes, [](std::byte each) { return each != std::byte{0}; }))
    return "the memory is not zeroed";
  return "";
}

class Pause : public testing::TestWithParam<Ranks> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Pause, testing::Values(Ranks::threads, Ranks::processes),
                         [](const auto& instance) {
                           return instance.param == Ranks::threads ? "threads" : "processes";
                         });

TEST_P(Pause, MemoryGoesAndComesAgainAtTheSamePlace) {
  const auto results = spawn(GetParam(), 4, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2, .dp = 2, .workspace_bytes = verify::workspace_bytes});
    Communicator other(bootstrap, {.tp = 4, .dp = 1});  // goes on meanwhile
    SymmetricBuffer buffer = communicator.allocate(bytes);
    std::optional<SymmetricBuffer> released = communicator.allocate(bytes);
    verify::Verifier verifier(communicator, std::size_t{16} * 33);
    verify::Verifier with_other(other, std::size_t{4} * 33);
    for (std::uint64_t round = 0; round < 5; ++round) {
      if (auto wrong = run_some(verifier, 2, round); !wrong.empty()) return wrong;
      if (round == 2 && bootstrap.rank() == 1) released.reset();  // the others still have it
      if (auto wrong = one_pause(bootstrap, communicator, buffer); !wrong.empty()) return wrong;
      if (auto wrong = run_some(with_other, 1, round); !wrong.empty()) return wrong;
    }
    return run_some(verifier, 2, 9);
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Pause, TeamsPauseTogether) {
  const auto results = spawn(GetParam(), 4, [](Bootstrap& bootstrap) -> std::string {
    Communicators communicators(bootstrap, {});
    Communicator& all = communicators.on({1, 2, 2});
    Communicator& pairs = communicators.on({2, 2, 1});  // ranks 0 and 2, ranks 1 and 3
    const auto sum_over = [](Communicator& communicator) {
      float x = 1;
      communicator.all_reduce(tensor(&x, 1, 1), tensor(&x, 1, 1));
      return x;
    };
    SymmetricBuffer buffer = pairs.allocate(bytes);
    for (int round = 0; round < 3; ++round) {
      if (sum_over(all) != 2 || sum_over(pairs) != 2) return "wrong sums";
      std::fill_n(buffer.data(), bytes, std::byte{1});
      communicators.pause();
      if (!communicators.paused() || !all.paused() || !pairs.paused()) return "not paused";
      if (resident_pages(buffer.data()) != 0) return "the memory was not given back";
      communicators.resume();
      if (communicators.paused()) return "still paused";
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Pause, ARankThatDoesNotComeIsNamed) {
  const auto results = spawn(GetParam(), 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2, .dp = 1});
    if (bootstrap.rank() == 1) {
      (void)bootstrap.exchange("something else", "");
      return "";
    }
    communicator.pause();
    return "no error";
  });
  EXPECT_NE(failures(results).find("pausing a communicator"), std::string::npos) << failures(results);
  EXPECT_EQ(failures(results).find("no error"), std::string::npos) << failures(results);
}

}  // namespace
}  // namespace mixcomm::test
