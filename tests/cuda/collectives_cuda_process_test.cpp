// The operations with one process per rank.
#include "cuda/support.hpp"

namespace mixcomm::test {
namespace {

/// Every case with each protocol.
std::string check_cases(Bootstrap& bootstrap, const GridSize& grid, const std::vector<verify::Case>& cases) {
  for (const Protocol protocol : {Protocol::packets, Protocol::barriers}) {
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

/// For tools that let the kernels of one process run one after the other only, such as compute-sanitizer:
/// ranks are processes, and take turns on the device where there is no MPS.
class ReducedCudaProcesses : public CudaProcessTest {};

TEST_F(ReducedCudaProcesses, ACaseOfEachKindIsExact) {
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
  const auto results = spawn_cuda(Ranks::processes, grid.world(),
                                  [&](Bootstrap& bootstrap) { return check_cases(bootstrap, grid, cases); });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
