// The test of the tests on a GPU: the same checks must catch kernels that do not wait, or whose workspaces do
// not alternate. Linked with the library that has hooks to break it.
#include <thread>

#include "cuda/delay.hpp"
#include "cuda/support.hpp"
#include "support/mutants.hpp"

namespace mixcomm::test {
namespace {

using enum Algorithm;
using enum mixcomm::Mutant;
using verify::Buffers;

struct Broken {
  const char* name;
  Mutant mutant;
  Op op;
  Algorithm algorithm;
  Protocol protocol;
  Buffers buffers;
  bool has_idle_ranks = false;
  verify::Steps steps{};
  friend std::ostream& operator<<(std::ostream& out, const Broken& mutant) { return out << mutant.name; }
};

constexpr int batch = 4;

/// Fresh inputs on every call, calls that follow each other without a wait, and ranks that are late in turn:
/// on the host before they write their inputs, and on the device.
std::vector<std::string> run(const Broken& mutant, Mutant which, int rounds) {
  broken() = which;
  const auto results = spawn_cuda(Ranks::threads, 4, [&](Bootstrap& bootstrap) -> std::string {
    auto options = cuda_options(2, 2, mutant.protocol);
    // A rank that has found something wrong leaves; the others need not wait long for it.
    options.timeout = std::chrono::milliseconds(1500);
    options.workspace_bytes = std::size_t{4} << 20U;
    // One lane: what a lane reads and writes takes longer than a rank needs to get ahead.
    options.cuda.max_lanes = 1;
    Communicator communicator(bootstrap, options);
    verify::Verifier verifier(communicator, 1 << 16, batch);
    load_delay();
    const Departure departure(bootstrap);
    std::vector<PreparedCall> calls;
    for (int slot = 0; slot < batch; ++slot) {
      calls.push_back(
          {&verifier,
           slot,
           {.op = mutant.op,
            .algorithm = mutant.algorithm,
            .dtype = DType::fp32,
            .buffers = mutant.buffers,
            .values = verify::Values::floats,
            .rows = mutant.has_idle_ranks ? std::vector<std::size_t>{0, 48} : std::vector<std::size_t>{2, 3},
            // No power of two, where means are made.
            .hidden = mutant.steps.norms ? std::size_t{520} : 512,
            .seed = static_cast<std::uint64_t>(slot) * 1'000'001}});
      calls.back().c.steps = mutant.steps;
    }
    for (int i = 0; i < rounds; ++i) {
      const bool late = (i * 7 + bootstrap.rank()) % 4 == 0;
      if (late) std::this_thread::sleep_for(std::chrono::microseconds(300));
      prepare(calls);
      if ((i + bootstrap.rank()) % 3 == 0) delay_on(verifier.device().stream(), 30);
      launch(calls, verifier.device().stream());
      verifier.device().synchronize();
      if (auto wrong = check(calls); !wrong.empty()) return wrong;
    }
    return "";
  });
  broken() = Mutant::none;
  return results;
}

class MutantsCuda : public CudaTest, public testing::WithParamInterface<Broken> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped() || GetParam().protocol != Protocol::lines) return;
    if (const std::string why = why_no_lines(4); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_P(MutantsCuda, AreCaughtAndTheOriginalIsNot) {
  const Broken& mutant = GetParam();
  EXPECT_EQ(failures(run(mutant, none, 30)), "") << "of the original";
  EXPECT_NE(failures(run(mutant, mutant.mutant, 60)), "") << "nothing was found wrong with the mutant";
}

constexpr auto ar_ag = Op::all_reduce_all_gather;
constexpr auto rs_ar = Op::reduce_scatter_all_reduce;
constexpr auto packets = Protocol::packets;
constexpr auto lines = Protocol::lines;
constexpr auto barriers = Protocol::barriers;
constexpr verify::Steps add_and_norm{.adds = true, .keeps = true, .norms = true};
constexpr verify::Steps to_fp8{
    .adds = true, .keeps = true, .norms = true, .quantize = Quantize::per_128_columns};

INSTANTIATE_TEST_SUITE_P(
    All, MutantsCuda,
    testing::Values(
        Broken{"no_first_barrier", no_first_barrier, ar_ag, two_shot, barriers, Buffers::symmetric},
        Broken{"no_first_barrier_dual", no_first_barrier, rs_ar, two_shot, barriers, Buffers::symmetric},
        Broken{"no_first_barrier_staged", no_first_barrier, rs_ar, two_shot, barriers, Buffers::plain},
        Broken{"no_second_barrier", no_second_barrier, ar_ag, two_shot, barriers, Buffers::symmetric},
        Broken{"no_second_barrier_dual", no_second_barrier, rs_ar, two_shot, barriers, Buffers::symmetric},
        Broken{"no_second_barrier_staged", no_second_barrier, ar_ag, two_shot, barriers, Buffers::plain},
        Broken{"packets_not_waited_for_one_shot", data_not_waited_for, ar_ag, one_shot, packets,
               Buffers::plain},
        Broken{"packets_not_waited_for_one_shot_dual", data_not_waited_for, rs_ar, one_shot, packets,
               Buffers::plain},
        Broken{"packets_not_waited_for_two_shot", data_not_waited_for, ar_ag, two_shot, packets,
               Buffers::plain},
        Broken{"packets_not_waited_for_two_shot_dual", data_not_waited_for, rs_ar, two_shot, packets,
               Buffers::plain},
        Broken{"lines_not_waited_for_one_shot", data_not_waited_for, ar_ag, one_shot, lines, Buffers::plain},
        Broken{"lines_not_waited_for_one_shot_dual", data_not_waited_for, rs_ar, one_shot, lines,
               Buffers::plain},
        Broken{"lines_not_waited_for_two_shot", data_not_waited_for, ar_ag, two_shot, lines, Buffers::plain},
        Broken{"lines_not_waited_for_two_shot_dual", data_not_waited_for, rs_ar, two_shot, lines,
               Buffers::plain},
        Broken{"no_alternation_over_lines_dual", one_workspace, rs_ar, one_shot, lines, Buffers::plain, true},
        Broken{"no_alternation_over_lines", one_workspace, Op::reduce_scatter, one_shot, lines,
               Buffers::plain, true},
        Broken{"no_greeting_over_lines_dual", no_greeting, rs_ar, one_shot, lines, Buffers::plain, true},
        Broken{"no_alternation_one_shot_dual", one_workspace, rs_ar, one_shot, packets, Buffers::plain, true},
        Broken{"no_alternation_one_shot", one_workspace, Op::reduce_scatter, one_shot, packets,
               Buffers::plain, true},
        Broken{"no_greeting_one_shot_dual", no_greeting, rs_ar, one_shot, packets, Buffers::plain, true},
        Broken{"rows_not_waited_for_one_shot", data_not_waited_for, ar_ag, one_shot, packets, Buffers::plain,
               false, add_and_norm},
        Broken{"rows_not_waited_for_two_shot", data_not_waited_for, rs_ar, two_shot, packets, Buffers::plain,
               false, to_fp8},
        Broken{"rows_not_waited_for_over_lines", data_not_waited_for, ar_ag, two_shot, lines, Buffers::plain,
               false, to_fp8},
        Broken{"rows_without_greeting", no_greeting, rs_ar, one_shot, packets, Buffers::plain, true,
               add_and_norm},
        Broken{"residual_of_each_rank", residual_of_each_rank, ar_ag, one_shot, packets, Buffers::plain,
               false, add_and_norm},
        Broken{"residual_of_each_rank_dual", residual_of_each_rank, rs_ar, two_shot, lines, Buffers::plain,
               false, add_and_norm},
        Broken{"norm_before_residual", norm_before_residual, ar_ag, two_shot, packets, Buffers::plain, false,
               add_and_norm},
        Broken{"mean_over_padded_width", mean_over_padded_width, rs_ar, one_shot, lines, Buffers::plain,
               false, add_and_norm},
        Broken{"scale_of_another_row", scale_of_another_row, ar_ag, two_shot, packets, Buffers::plain, false,
               to_fp8},
        Broken{"scale_of_another_row_dual", scale_of_another_row, rs_ar, one_shot, lines, Buffers::plain,
               false, to_fp8},
        Broken{"rows_beyond_are_normed", rows_beyond_are_normed, ar_ag, two_shot, packets, Buffers::plain,
               false, add_and_norm},
        Broken{"rows_beyond_are_normed_dual", rows_beyond_are_normed, rs_ar, one_shot, packets,
               Buffers::plain, false, add_and_norm}),
    [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace mixcomm::test
