// Every operation, algorithm, dtype, buffer kind and row pattern, on every grid, against an independent
// oracle.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "mixcomm/mixcomm.hpp"
#include "support/sanitized.hpp"
#include "support/spawn.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

struct Setup {
  Ranks ranks;
  int tp;
  int dp;
};

std::ostream& operator<<(std::ostream& out, const Setup& s) {
  return out << (s.ranks == Ranks::threads ? "threads" : "processes") << "_" << s.tp << "x" << s.dp;
}

class Collectives : public testing::TestWithParam<Setup> {};

TEST_P(Collectives, EveryCaseIsExact) {
  const auto [ranks, tp, dp] = GetParam();
  verify::Matrix matrix{.tp = tp, .dp = dp, .ops = {}, .algorithms = {}, .dtypes = {}, .large = !sanitized};
  if (ranks == Ranks::processes) matrix.dtypes = {DType::bf16};
  const auto cases = verify::cases_of(matrix);
  ASSERT_GT(cases.size(), 500U);
  const auto results = spawn(ranks, tp * dp, [&](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap, {.tp = tp, .dp = dp, .workspace_bytes = verify::workspace_bytes});
    verify::Verifier verifier(communicator, verify::most_elements(cases, dp));
    return verifier.run(cases);
  });
  EXPECT_EQ(failures(results), "");
}

std::vector<Setup> setups() {
  std::vector<Setup> all;
  const std::vector<std::pair<int, int>> grids = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4},
                                                  {3, 2}, {4, 2}, {2, 4}, {8, 1}, {1, 8}};
  for (const auto& [tp, dp] : grids) all.push_back({Ranks::threads, tp, dp});
#if !defined(__SANITIZE_THREAD__)
  for (const auto& [tp, dp] : {std::pair{2, 2}, {3, 2}, {4, 2}, {2, 4}})
    all.push_back({Ranks::processes, tp, dp});
#endif
  return all;
}

INSTANTIATE_TEST_SUITE_P(Grids, Collectives, testing::ValuesIn(setups()), testing::PrintToStringParamName());

TEST(Collectives, SeveralCommunicatorsTakeTurns) {
  const auto results = spawn(Ranks::threads, 4, [](Bootstrap& bootstrap) {
    Communicator wide(bootstrap, {.tp = 4, .dp = 1});
    Communicator square(bootstrap, {.tp = 2, .dp = 2});
    Communicator tall(bootstrap, {.tp = 1, .dp = 4});
    verify::Verifier a(wide, 1 << 12);
    verify::Verifier b(square, 1 << 12);
    verify::Verifier c(tall, 1 << 12);
    for (std::uint64_t i = 0; i < 200; ++i) {
      const auto op = static_cast<Op>(i % 5);
      const auto algorithm = static_cast<Algorithm>(1 + i % 3);
      for (auto [verifier, dp] : {std::pair{&a, std::size_t{1}}, {&b, 2}, {&c, 4}}) {
        verify::Case each{op, algorithm, DType::bf16,  verify::Buffers::plain, verify::Values::floats,
                          {}, 65,        1000 * i + dp};
        for (std::size_t d = 0; d < dp; ++d) each.rows.push_back((i + d) % 4);
        if (auto wrong = verifier->run(each); !wrong.empty()) return wrong;
      }
    }
    return std::string();
  });
  EXPECT_EQ(failures(results), "");
}

/// -0.0, infinities and NaN go through as IEEE arithmetic has them.
TEST(Collectives, SpecialValuesGoThrough) {
  for (const Algorithm algorithm : {Algorithm::one_shot, Algorithm::two_shot}) {
    const auto results = spawn(Ranks::threads, 2, [&](Bootstrap& bootstrap) -> std::string {
      Communicator communicator(bootstrap, {.tp = 2, .dp = 1});
      const float infinity = std::numeric_limits<float>::infinity();
      const bool first = bootstrap.rank() == 0;
      const std::vector<float> in = {-0.0F,
                                     infinity,
                                     first ? infinity : -infinity,
                                     std::numeric_limits<float>::quiet_NaN(),
                                     1e-45F,
                                     first ? 3e38F : 3e38F};
      std::vector<float> out(in.size());
      communicator.all_reduce(tensor(in.data(), 1, in.size()), tensor(out.data(), 1, out.size()),
                              {.algorithm = algorithm});
      if (!(out[0] == 0 && std::signbit(out[0]))) return "-0.0 + -0.0 is not -0.0";
      if (out[1] != infinity || out[5] != infinity) return "an infinity was lost";
      if (!std::isnan(out[2]) || !std::isnan(out[3])) return "a NaN was lost";
      if (out[4] != 2 * 1e-45F) return "a subnormal was flushed";
      return "";
    });
    EXPECT_EQ(failures(results), "");
  }
}

/// The same input gives the same bits, whichever ordered algorithm and however many rows are around it.
TEST(Collectives, ARowsResultDoesNotDependOnItsBatch) {
  const auto results = spawn(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2, .dp = 2});
    constexpr std::size_t hidden = 200;
    std::vector<float> expected;
    for (const Algorithm algorithm : {Algorithm::one_shot, Algorithm::two_shot})
      for (const std::size_t rows : {1UL, 2UL, 37UL, 400UL}) {
        std::vector<float> in(2 * rows * hidden, 1.0F);
        for (std::size_t i = 0; i < hidden; ++i)
          in[i] = in[rows * hidden + i] =
              std::sin(static_cast<float>(i * 7 + static_cast<std::size_t>(bootstrap.rank()) * 131));
        std::vector<float> out(rows * hidden);
        communicator.reduce_scatter_all_reduce(tensor(in.data(), 2 * rows, hidden),
                                               tensor(out.data(), rows, hidden), rows,
                                               {.algorithm = algorithm});
        out.resize(hidden);
        if (expected.empty()) expected = out;
        if (std::memcmp(expected.data(), out.data(), hidden * sizeof(float)) != 0) return "the bits differ";
      }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
