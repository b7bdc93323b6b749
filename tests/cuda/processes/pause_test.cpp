// Memory is given back, and comes again at the same addresses, with one process per rank: what is mapped is
// passed on anew.
#include "cuda/pause.hpp"

namespace mixcomm::test {
namespace {

class PauseCudaProcesses : public CudaProcessTest, public testing::WithParamInterface<GridSize> {};
INSTANTIATE_TEST_SUITE_P(Grids, PauseCudaProcesses, testing::Values(GridSize{2, 1}, GridSize{2, 2}),
                         testing::PrintToStringParamName());

TEST_P(PauseCudaProcesses, GraphsReplayAfterIt) {
  const GridSize grid = GetParam();
  const auto results = spawn_cuda(Ranks::processes, grid.world(), [&](Bootstrap& bootstrap) {
    return pause_and_resume(bootstrap, cuda_options(grid.tp, grid.dp));
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
