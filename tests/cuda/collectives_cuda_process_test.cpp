// The operations with one process per rank.
#include "cuda/support.hpp"

namespace mixcomm::test {
namespace {

class CollectivesCudaProcesses : public CudaProcessTest, public testing::WithParamInterface<GridSize> {};

TEST_P(CollectivesCudaProcesses, EveryCaseIsExact) {
  const GridSize grid = GetParam();
  const auto cases = verify::cases_of(
      {.tp = grid.tp, .dp = grid.dp, .dtypes = {DType::bf16}, .large = true, .backend = BackendKind::cuda});
  const auto results = spawn_cuda(Ranks::processes, grid.world(), [&](Bootstrap& bootstrap) -> std::string {
    for (const Protocol protocol : {Protocol::packets, Protocol::barriers}) {
      Communicator communicator(bootstrap, cuda_options(grid.tp, grid.dp, protocol));
      verify::Verifier verifier(communicator, verify::most_elements(cases, grid.dp));
      const Departure departure(bootstrap);
      for (const verify::Case& each : cases)
        if (auto wrong = verifier.run(each); !wrong.empty())
          return std::string(name(protocol)) + ": " + wrong;
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

INSTANTIATE_TEST_SUITE_P(Grids, CollectivesCudaProcesses,
                         testing::Values(GridSize{2, 2}, GridSize{3, 2}, GridSize{4, 2}, GridSize{2, 4}),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace mixcomm::test
