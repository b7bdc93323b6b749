// Epilogues: the residual, the norm and FP8 inside operations, and by themselves, against an independent
// oracle.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/thread_count.hpp"
#include "epilogue/arithmetic.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"
#include "support/spawn.hpp"
#include "verify/numbers.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;  // slower by ten and more: the small shapes
#else
constexpr bool sanitized = false;
#endif

struct Setup {
  Ranks ranks;
  int tp;
  int dp;
  int threads = 1;
};

std::ostream& operator<<(std::ostream& out, const Setup& s) {
  return out << (s.ranks == Ranks::threads ? "threads" : "processes") << "_" << s.tp << "x" << s.dp << "_"
             << s.threads;
}

class Epilogues : public testing::TestWithParam<Setup> {};

TEST_P(Epilogues, EveryCaseIsExact) {
  const auto [ranks, tp, dp, threads] = GetParam();
  verify::Matrix matrix{
      .tp = tp, .dp = dp, .ops = {}, .algorithms = {}, .dtypes = {}, .large = !sanitized, .epilogues = true};
  if (ranks == Ranks::processes) matrix.dtypes = {DType::bf16};
  const auto cases = verify::cases_of(matrix);
  ASSERT_GT(cases.size(), 300U);
  const cpu::ThreadRule before = cpu::thread_rule();
  if (threads > 1) cpu::thread_rule() = {.least_bytes = 1, .bytes_each = 1};
  const auto results = spawn(ranks, tp * dp, [&](Bootstrap& bootstrap) {
    Communicator communicator(
        bootstrap,
        {.tp = tp, .dp = dp, .workspace_bytes = 2 * verify::workspace_bytes, .cpu = {.threads = threads}});
    verify::Verifier verifier(communicator, verify::most_elements(cases, dp));
    for (const auto& each : cases)
      if (auto wrong = verifier.run(each); !wrong.empty()) return wrong;
    return std::string();
  });
  cpu::thread_rule() = before;
  EXPECT_EQ(failures(results), "");
}

std::vector<Setup> setups() {
  std::vector<Setup> all;
  for (const auto& [tp, dp] :
       {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}, {3, 2}, {4, 2}, {2, 4}})
    all.push_back({Ranks::threads, tp, dp});
  all.push_back({Ranks::threads, 2, 2, 3});
#if !defined(__SANITIZE_THREAD__)
  for (const auto& [tp, dp] : {std::pair{2, 2}, {3, 2}}) all.push_back({Ranks::processes, tp, dp});
#endif
  return all;
}

INSTANTIATE_TEST_SUITE_P(Grids, Epilogues, testing::ValuesIn(setups()), testing::PrintToStringParamName());

}  // namespace
}  // namespace mixcomm::test
