// Both fused operations on attention TP 2 x DP 2, with uneven rows. Ranks are threads here; under mixcomm
// run, torchrun, mpirun or srun, each process is a rank: see main().
#include <cstdio>
#include <mixcomm/mixcomm.hpp>
#include <vector>

namespace {

void one_layer(mixcomm::Bootstrap& bootstrap) {
  constexpr std::size_t hidden = 128;
  mixcomm::Communicator communicator(bootstrap, {.tp = 2, .dp = 2});
  const mixcomm::Grid& grid = communicator.grid();
  const std::vector<std::size_t> rows = {3, 1};  // of DP rank 0 and 1
  const std::size_t own = rows[static_cast<std::size_t>(grid.dp.member)];
  const std::size_t all = 4;

  // Memory that all ranks reach, so that nothing is copied on the way. Any other memory would do, too.
  const auto attention = communicator.allocate(all * hidden * sizeof(float));
  const auto moe = communicator.allocate(all * hidden * sizeof(float));

  // Attention gave partial sums of the own rows; the MoE wants complete rows, all of them.
  for (std::size_t i = 0; i < own * hidden; ++i) attention.as<float>()[i] = 1.0F;
  communicator.all_reduce_all_gather(mixcomm::tensor(attention.as<const float>(), own, hidden),
                                     mixcomm::tensor(moe.as<float>(), all, hidden), rows);

  // The experts of each rank gave a part of each row's sum (here: what came in); the next layer wants the own
  // rows.
  communicator.reduce_scatter_all_reduce(mixcomm::tensor(moe.as<const float>(), all, hidden),
                                         mixcomm::tensor(attention.as<float>(), own, hidden), rows);

  // 1 per TP rank, summed over 2 of them, then over 4 ranks.
  std::printf("rank %d: %zu rows, each %g\n", grid.rank(), own,
              static_cast<double>(attention.as<float>()[0]));
}

}  // namespace

int main() {
  try {
    const mixcomm::LaunchInfo launch = mixcomm::launch_info();
    if (launch.launcher.empty()) {
      mixcomm::run_threads(4, one_layer);
    } else {
      one_layer(*mixcomm::bootstrap_processes(launch));
    }
  } catch (const mixcomm::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
