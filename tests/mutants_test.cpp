// The test of the tests: the same checks must catch a library with a barrier left out (each of each body,
// with buffers in place and staged ones where they differ), or a workspace that does not alternate. Built
// with a copy of the library that has MIXCOMM_MUTANTS defined.
#include <gtest/gtest.h>

#include <thread>

#include "cpu/thread_count.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/mutants.hpp"
#include "support/spawn.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

struct Broken {
  const char* name;
  Op op;
  Algorithm algorithm;
  verify::Buffers buffers;
  Mutant mutant;
  bool caught;
  int tp = 2;
  int dp = 2;
  int threads = 1;
  verify::Steps steps{};
};

constexpr verify::Steps add_and_norm{.adds = true, .keeps = true, .norms = true};
constexpr verify::Steps to_fp8{
    .adds = true, .keeps = true, .norms = true, .quantize = Quantize::per_128_columns};

/// Fresh inputs on every call, each checked at once, with ranks that are late in turn.
std::vector<std::string> run(const Broken& mutant, int calls) {
  broken() = mutant.mutant;
  cpu::thread_rule() = {.least_bytes = 1, .bytes_each = 1};
  const int world = mutant.tp * mutant.dp;
  return spawn(Ranks::threads, world, [&](Bootstrap& bootstrap) {
    // A rank that has found something wrong leaves; the others need not wait long for it.
    Communicator communicator(bootstrap, {.tp = mutant.tp,
                                          .dp = mutant.dp,
                                          .timeout = std::chrono::milliseconds(1500),
                                          .cpu = {.threads = mutant.threads}});
    verify::Verifier verifier(communicator, 1 << 14);
    for (int i = 0; i < calls; ++i) {
      if ((i * 7 + bootstrap.rank()) % world == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(300));
      verify::Case c{mutant.op,
                     mutant.algorithm,
                     DType::fp32,
                     mutant.buffers,
                     verify::Values::floats,
                     mutant.dp == 2 ? std::vector<std::size_t>{2, 3} : std::vector<std::size_t>{5},
                     mutant.steps.adds ? std::size_t{200} : 256,  // no power of two, where means are made
                     static_cast<std::uint64_t>(i) + 1};
      c.steps = mutant.steps;
      const std::string wrong = verifier.run(c);
      if (!wrong.empty()) return wrong;
    }
    return std::string();
  });
}

class Mutants : public testing::TestWithParam<Broken> {};

TEST_P(Mutants, AreCaughtAndTheOriginalIsNot) {
  const Broken& mutant = GetParam();
  // Two ranks read each other's input in place if they have a processor each; else there is one wait less.
  if (mutant.tp * mutant.dp == 2 && std::thread::hardware_concurrency() < 2)
    GTEST_SKIP() << "ranks that read in place need a processor each, and there is one";
  const bool caught = !failures(run(mutant, 300)).empty();
  EXPECT_EQ(caught, mutant.caught) << mutant.name;
}

constexpr auto ar_ag = Op::all_reduce_all_gather;
constexpr auto rs_ar = Op::reduce_scatter_all_reduce;
using enum Algorithm;
using enum Mutant;
using verify::Buffers;

INSTANTIATE_TEST_SUITE_P(
    All, Mutants,
    testing::Values(
        Broken{"original_one_shot", ar_ag, one_shot, Buffers::plain, none, false},
        Broken{"original_two_shot", rs_ar, two_shot, Buffers::symmetric, none, false},
        Broken{"original_two_shot_staged", ar_ag, two_shot, Buffers::plain, none, false},
        Broken{"one_shot_without_its_wait", ar_ag, one_shot, Buffers::plain, no_first_barrier, true},
        Broken{"one_shot_without_its_wait_dual", rs_ar, one_shot, Buffers::plain, no_first_barrier, true},
        Broken{"two_shot_without_its_first_wait", ar_ag, two_shot, Buffers::symmetric, no_first_barrier,
               true},
        Broken{"two_shot_without_its_first_wait_dual", rs_ar, two_shot, Buffers::symmetric, no_first_barrier,
               true},
        Broken{"two_shot_without_its_last_wait", ar_ag, two_shot, Buffers::symmetric, no_second_barrier,
               true},
        Broken{"two_shot_without_its_last_wait_dual", rs_ar, two_shot, Buffers::symmetric, no_second_barrier,
               true},
        Broken{"two_shot_without_its_first_wait_staged", ar_ag, two_shot, Buffers::plain, no_first_barrier,
               true},
        Broken{"two_shot_without_its_first_wait_staged_dual", rs_ar, two_shot, Buffers::plain,
               no_first_barrier, true},
        Broken{"two_shot_without_its_last_wait_staged", ar_ag, two_shot, Buffers::plain, no_second_barrier,
               true},
        Broken{"two_shot_without_its_last_wait_staged_dual", rs_ar, two_shot, Buffers::plain,
               no_second_barrier, true},
        Broken{"one_shot_without_alternating", ar_ag, one_shot, Buffers::plain, one_workspace, true},
        Broken{"one_shot_without_alternating_dual", rs_ar, one_shot, Buffers::plain, one_workspace, true},
        Broken{"original_in_place", ar_ag, one_shot, Buffers::symmetric, none, false, 1, 2},
        Broken{"one_shot_in_place_without_its_first_wait", ar_ag, one_shot, Buffers::symmetric,
               no_first_barrier, true, 1, 2},
        Broken{"one_shot_in_place_without_its_last_wait", ar_ag, one_shot, Buffers::symmetric,
               no_second_barrier, true, 1, 2},
        Broken{"one_shot_in_place_without_its_last_wait_sum", ar_ag, one_shot, Buffers::symmetric,
               no_second_barrier, true, 2, 1},
        Broken{"one_shot_in_place_without_its_last_wait_dual", rs_ar, one_shot, Buffers::symmetric,
               no_second_barrier, true, 1, 2},
        Broken{"original_of_threads", ar_ag, one_shot, Buffers::plain, none, false, 2, 2, 3},
        Broken{"original_of_threads_two_shot", rs_ar, two_shot, Buffers::plain, none, false, 2, 2, 3},
        Broken{"threads_in_one_slice", ar_ag, one_shot, Buffers::plain, one_slice, true, 2, 2, 3},
        Broken{"threads_in_one_slice_dual", rs_ar, one_shot, Buffers::plain, one_slice, true, 2, 2, 3},
        Broken{"threads_in_one_slice_two_shot", rs_ar, two_shot, Buffers::plain, one_slice, true, 2, 2, 3},
        Broken{"threads_without_their_wait", ar_ag, one_shot, Buffers::plain, no_first_barrier, true, 2, 2,
               3},
        Broken{"threads_without_their_last_wait", rs_ar, two_shot, Buffers::symmetric, no_second_barrier,
               true, 2, 2, 3},
        Broken{"threads_without_alternating", ar_ag, one_shot, Buffers::plain, one_workspace, true, 2, 2, 3},
        Broken{"original_epilogue", ar_ag, one_shot, Buffers::plain, none, false, 2, 2, 1, add_and_norm},
        Broken{"original_epilogue_dual", rs_ar, two_shot, Buffers::plain, none, false, 2, 2, 1, to_fp8},
        Broken{"residual_of_each_rank", ar_ag, one_shot, Buffers::plain, residual_of_each_rank, true, 2, 2, 1,
               add_and_norm},
        Broken{"residual_of_each_rank_two_shot", ar_ag, two_shot, Buffers::symmetric, residual_of_each_rank,
               true, 2, 2, 1, add_and_norm},
        Broken{"norm_before_residual", ar_ag, one_shot, Buffers::plain, norm_before_residual, true, 2, 2, 1,
               add_and_norm},
        Broken{"norm_before_residual_dual", rs_ar, two_shot, Buffers::plain, norm_before_residual, true, 2, 2,
               1, add_and_norm},
        Broken{"mean_over_padded_width", ar_ag, two_shot, Buffers::plain, mean_over_padded_width, true, 2, 2,
               1, add_and_norm},
        Broken{"scale_of_another_row", ar_ag, two_shot, Buffers::plain, scale_of_another_row, true, 2, 2, 1,
               to_fp8},
        Broken{"rows_beyond_are_normed", ar_ag, two_shot, Buffers::plain, rows_beyond_are_normed, true, 2, 2,
               1, add_and_norm},
        Broken{"rows_beyond_are_normed_dual", rs_ar, one_shot, Buffers::plain, rows_beyond_are_normed, true,
               2, 2, 1, add_and_norm},
        Broken{"epilogue_without_its_last_wait", ar_ag, two_shot, Buffers::plain, no_second_barrier, true, 2,
               2, 1, to_fp8},
        Broken{"epilogue_without_alternating", ar_ag, one_shot, Buffers::plain, one_workspace, true, 2, 2, 1,
               add_and_norm}),
    [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace mixcomm::test
