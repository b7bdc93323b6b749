// Memory is given back, and comes again at the same addresses, with ranks as streams of one process.
#include "cuda/pause.hpp"

namespace mixcomm::test {
namespace {

class PauseCuda : public CudaTest, public testing::WithParamInterface<Protocol> {};
INSTANTIATE_TEST_SUITE_P(Protocols, PauseCuda,
                         testing::Values(Protocol::automatic, Protocol::packets, Protocol::barriers),
                         [](const auto& instance) { return std::string(name(instance.param)); });

TEST_P(PauseCuda, GraphsReplayAfterIt) {
  for (const GridSize grid : {GridSize{2, 2}, GridSize{2, 1}, GridSize{1, 4}}) {
    SCOPED_TRACE(testing::PrintToString(grid));
    const auto results = spawn_cuda(Ranks::threads, grid.world(), [&](Bootstrap& bootstrap) {
      return pause_and_resume(bootstrap, cuda_options(grid.tp, grid.dp, GetParam()));
    });
    EXPECT_EQ(failures(results), "");
  }
}

}  // namespace
}  // namespace mixcomm::test
