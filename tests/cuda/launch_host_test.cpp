// How many lanes, threads and passes a CUDA operation takes. No GPU is needed.
#include <gtest/gtest.h>

#include "cuda/launch.hpp"

namespace mixcomm::cuda {
namespace {

Call call_of(Op op, Algorithm algorithm, Protocol protocol, DType dtype, const Grid& grid,
             std::size_t block) {
  Call call;
  call.shape.protocol = protocol;
  call.gathers = shape_of(op).gathers;
  call.algorithm = algorithm;
  call.dtype = dtype;
  call.blocks = Blocks(grid.dp.size, [&](int d) { return d == 0 ? block : block / 2; });
  return call;
}

/// Every grid, message and workspace: a piece of every block fits a lane's part of the workspace, and no lane
/// is idle.
TEST(Launch, EveryMessagePassesThroughEveryWorkspace) {
  for (int world = 1; world <= most_ranks; ++world)
    for (int tp = 1; tp <= world; ++tp) {
      if (world % tp != 0) continue;
      const Grid grid = Grid::of(tp, world / tp, 0);
      for (const int lanes : {1, 3, 8, 22, most_lanes})
        for (const std::size_t workspace : {std::size_t{64} << 10U, std::size_t{4} << 20U})
          for (const Protocol protocol : {Protocol::packets, Protocol::lines, Protocol::barriers}) {
            const LaunchLimits limits = limits_for(lanes, workspace, true);
            ASSERT_GE(limits.most_lanes, 1);
            for (const std::size_t block : {1UL, 63UL, 4096UL, 1'000'000UL})
              for (const Op op : {Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce})
                for (const Algorithm algorithm : {Algorithm::one_shot, Algorithm::two_shot})
                  for (const bool direct : {false, true}) {
                    const Call call = call_of(op, algorithm, protocol, DType::fp32, grid, block);
                    const Launch launch = launch_for(call, grid, direct, limits);  // ends
                    EXPECT_LE(launch.lanes, limits.most_lanes);
                    EXPECT_LE(launch.threads, most_threads_of(launch.way));
                    EXPECT_EQ(is_one_shot(launch.way), algorithm == Algorithm::one_shot);
                    EXPECT_EQ(over_lines(launch.way), protocol == Protocol::lines);
                    EXPECT_LE(launch.lane_bytes * static_cast<std::size_t>(launch.lanes), workspace);
                    EXPECT_EQ(launch.threads % 32, 0);
                    const auto& blocks = launch.blocks;
                    EXPECT_EQ(blocks.step() * sizeof(float), over_lines(launch.way) ? 240U : 256U);
                    if (over_barriers(launch.way) && direct) continue;
                    std::size_t bytes = blocks.packed_size() * sizeof(float);
                    if (over_packets(launch.way)) bytes *= 2;
                    if (over_lines(launch.way)) bytes = bytes / 120 * 128;
                    EXPECT_LE(bytes, launch.lane_bytes);
                  }
          }
    }
}

TEST(Launch, ShortMessagesTakeFewLanes) {
  const Grid grid = Grid::of(4, 2, 0);
  const LaunchLimits limits = limits_for(32, std::size_t{4} << 20U, true);
  const auto lanes = [&](std::size_t rows) {
    return launch_for(call_of(Op::all_reduce_all_gather, Algorithm::two_shot, Protocol::packets, DType::bf16,
                              grid, rows * 4096),
                      grid, true, limits)
        .lanes;
  };
  EXPECT_LE(lanes(1), 8);
  EXPECT_EQ(lanes(256), 32);
}

TEST(Launch, ManyLinesTakeTwoAtATimeAndAllThreads) {
  const LaunchLimits limits = limits_for(most_lanes, std::size_t{4} << 20U, true);
  const auto launch = [&](Op op, Algorithm algorithm, const Grid& grid, std::size_t rows) {
    Call call = call_of(op, algorithm, Protocol::lines, DType::bf16, grid, 0);
    call.blocks = Blocks(grid.dp.size, [&](int) { return rows * 4096; });
    return launch_for(call, grid, false, limits);
  };
  const Grid both = Grid::of(2, 2, 0);
  using enum Algorithm;
  EXPECT_EQ(launch(Op::all_reduce_all_gather, two_shot, both, 256).way, Way::two_shot_lines_wide);
  EXPECT_EQ(launch(Op::all_reduce_all_gather, two_shot, both, 64).way, Way::two_shot_lines);
  EXPECT_EQ(launch(Op::reduce_scatter_all_reduce, two_shot, both, 256).way, Way::two_shot_lines);
  EXPECT_EQ(launch(Op::all_reduce_all_gather, one_shot, Grid::of(1, 4, 0), 64).way, Way::one_shot_lines_wide);
  EXPECT_EQ(launch(Op::reduce_scatter_all_reduce, one_shot, Grid::of(1, 4, 0), 64).way, Way::one_shot_lines);
  EXPECT_EQ(launch(Op::reduce_scatter_all_reduce, two_shot, both, 16).threads, 256);
  EXPECT_EQ(launch(Op::reduce_scatter_all_reduce, two_shot, both, 64).threads, 512);
  EXPECT_EQ(launch(Op::reduce_scatter_all_reduce, one_shot, Grid::of(1, 4, 0), 16).threads, 512);
}

}  // namespace
}  // namespace mixcomm::cuda
