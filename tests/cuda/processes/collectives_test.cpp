// The operations with one process per rank.
#include "cuda/planted_mistakes.hpp"
#include "cuda/support.hpp"

namespace mixcomm::test {
namespace {

/// Every case with each protocol.
std::string check_cases(Bootstrap& bootstrap, const GridSize& grid, const std::vector<verify::Case>& cases) {
  const bool lines = has_lines(bootstrap);
  for (const Protocol protocol : {Protocol::packets, Protocol::lines, Protocol::barriers}) {
    if (protocol == Protocol::lines && !lines) continue;
    Communicator communicator(bootstrap, cuda_options(grid.tp, grid.dp, protocol));
    verify::Verifier verifier(communicator, verify::most_elements(cases, grid.dp));
    const Departure departure(bootstrap);
    for (const verify::Case& each : cases)
      if (auto wrong = verifier.run(each); !wrong.empty()) return std::string(name(protocol)) + ": " + wrong;
  }
  return "";
}

class CollectivesCudaProcesses : public CudaProcessTest, public testing::WithParamInterface<GridSize> {};

TEST_P(CollectivesCudaProcesses, EveryCaseIsExact) {
  const GridSize grid = GetParam();
  const auto cases = verify::cases_of(
      {.tp = grid.tp, .dp = grid.dp, .dtypes = {DType::bf16}, .large = true, .backend = BackendKind::cuda});
  const auto results = spawn_cuda(Ranks::processes, grid.world(),
                                  [&](Bootstrap& bootstrap) { return check_cases(bootstrap, grid, cases); });
  EXPECT_EQ(failures(results), "");
}

INSTANTIATE_TEST_SUITE_P(Grids, CollectivesCudaProcesses,
                         testing::Values(GridSize{2, 2}, GridSize{3, 2}, GridSize{4, 2}, GridSize{2, 4}),
                         testing::PrintToStringParamName());

/// For compute-sanitizer, which runs the kernels of one process one after the other: ranks that wait for each
/// other must be processes, each with a sanitizer of its own, which `mixcomm run` starts
/// (scripts/check-cuda). They take turns on the device, in slices of milliseconds.
class LaunchedCudaProcesses : public testing::Test {
 protected:
  void SetUp() override {
    if (info_.launcher.empty())
      GTEST_SKIP() << "needs ranks that were launched: scripts/check-cuda sanitizers";
    if (const std::string why = verify::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
  }
  const LaunchInfo info_ = launch_info();
};

TEST_F(LaunchedCudaProcesses, ACaseOfEachKindIsExact) {
  ASSERT_EQ(info_.world, 4);
  const GridSize grid{2, 2};
  auto cases = verify::cases_of(
      {.tp = grid.tp, .dp = grid.dp, .dtypes = {DType::bf16}, .large = false, .backend = BackendKind::cuda});
  std::erase_if(cases, [](const verify::Case& c) {
    return c.values == verify::Values::integers || c.algorithm == Algorithm::automatic ||
           c.buffers == verify::Buffers::mixed || (c.hidden != 130 && c.hidden != 33);
  });
  cases.push_back({Op::all_reduce_all_gather,
                   Algorithm::two_shot,
                   DType::fp16,
                   verify::Buffers::symmetric,
                   verify::Values::floats,
                   {3, 4},
                   2880,
                   1});
  cases.push_back({Op::reduce_scatter_all_reduce,
                   Algorithm::two_shot,
                   DType::fp32,
                   verify::Buffers::plain,
                   verify::Values::floats,
                   {3, 4},
                   2880,
                   2});
  const auto bootstrap = bootstrap_processes(info_, patience());
  EXPECT_EQ(check_cases(*bootstrap, grid, cases), "");
}

TEST_F(LaunchedCudaProcesses, PlantedMistakesAreForTheSanitizerToFind) {
  make_planted_mistakes();
}

}  // namespace
}  // namespace mixcomm::test
