// How many lanes, threads and passes a CUDA operation takes. No GPU is needed.
#include <gtest/gtest.h>

#include <algorithm>

#include "cuda/launch.hpp"
#include "cuda/row_launch.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

Call call_of(Op op, Algorithm algorithm, Protocol protocol, DType dtype, const Grid& grid,
             std::size_t block) {
  Call call;
  call.shape.protocol = protocol;
  call.body = shape_of(op).body;
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

/// Of 4 sources two pairs wait for nothing; of 8, 512 threads with 16 elements each keep a sum of fp32 in
/// shared memory.
TEST(Launch, SumsOfManyBatchesKeepOneInSharedMemory) {
  const LaunchLimits limits = limits_for(most_lanes, std::size_t{4} << 20U, true);
  const auto launch = [&](DType dtype, int tp) {
    const Grid grid = Grid::of(tp, 1, 0);
    return launch_for(call_of(Op::all_reduce, Algorithm::two_shot, Protocol::lines, dtype, grid, 512 * 4096),
                      grid, false, limits);
  };
  EXPECT_EQ(launch(DType::bf16, 4).way, Way::two_shot_lines_wide);
  EXPECT_EQ(launch(DType::bf16, 4).shared_bytes, 0U);
  EXPECT_EQ(launch(DType::bf16, 8).way, Way::two_shot_lines_wide);
  EXPECT_EQ(launch(DType::bf16, 8).shared_bytes, std::size_t{32} << 10U);
  EXPECT_EQ(launch(DType::fp32, 8).shared_bytes, std::size_t{16} << 10U);
  EXPECT_EQ(launch(DType::bf16, 9).way, Way::two_shot_lines);
  EXPECT_EQ(launch(DType::bf16, 9).shared_bytes, 0U);
  const auto scatter = [&](int tp, int dp) {
    const Grid grid = Grid::of(tp, dp, 0);
    Call call =
        call_of(Op::reduce_scatter_all_reduce, Algorithm::two_shot, Protocol::lines, DType::bf16, grid, 0);
    call.blocks = Blocks(dp, [&](int) { return 64 * 4096; });
    return launch_for(call, grid, false, limits);
  };
  EXPECT_EQ(scatter(4, 2).shared_bytes, 0U);
  EXPECT_EQ(scatter(4, 4).threads, 512);
  EXPECT_EQ(scatter(4, 4).shared_bytes, std::size_t{16} << 10U);
}

/// Eight loads under way are one tree, or none: three groups of three are not.
TEST(Launch, BarriersOfFewDataSumOneTree) {
  const LaunchLimits limits = limits_for(most_lanes, std::size_t{4} << 20U, true);
  const auto way = [&](Op op, int tp, int dp) {
    const Grid grid = Grid::of(tp, dp, 0);
    Call call = call_of(op, Algorithm::two_shot, Protocol::barriers, DType::bf16, grid, 0);
    call.blocks = Blocks(dp, [&](int) { return 4096; });
    return launch_for(call, grid, true, limits).way;
  };
  EXPECT_EQ(way(Op::reduce_scatter_all_reduce, 2, 4), Way::two_shot_barriers_few);
  EXPECT_EQ(way(Op::reduce_scatter_all_reduce, 1, 7), Way::two_shot_barriers_few);
  EXPECT_EQ(way(Op::reduce_scatter_all_reduce, 3, 2), Way::two_shot_barriers);
  EXPECT_EQ(way(Op::all_reduce_all_gather, 3, 2), Way::two_shot_barriers_few);
  EXPECT_EQ(way(Op::reduce_scatter_all_reduce, 1, 9), Way::two_shot_barriers);
}

/// A call with an epilogue, whose pointers nobody follows.
Call row_call(Op op, Algorithm algorithm, Protocol protocol, DType dtype, const Grid& grid, std::size_t rows,
              std::size_t hidden, Quantize quantize) {
  Call call = call_of(op, algorithm, protocol, dtype, grid, 0);
  call.blocks = Blocks(grid.dp.size, [&](int d) { return (d == 0 ? rows : rows / 2) * hidden; });
  call.hidden = hidden;
  call.epilogue.residual = call.epilogue.residual_out = {nullptr, rows, hidden, dtype};
  call.epilogue.weight = {nullptr, 1, hidden, dtype};
  call.epilogue.quantize = quantize;
  return call;
}

/// What a pass of a lane takes of the larger area, counted row by row.
std::size_t bytes_of_pass(const Call& call, const Grid& grid, const RowLaunch& launch) {
  const bool lines = launch.kind != RowKind::packets;
  const std::size_t data = lines ? 240 : 8;
  const std::size_t carried = lines ? 256 : 16;
  const auto on_wire = [&](std::size_t bytes) { return (bytes + data - 1) / data * carried; };
  const std::size_t row = on_wire(call.hidden * size_of(call.dtype));
  const std::size_t scales = scales_per_row(call.epilogue.quantize, call.hidden);
  const std::size_t out =
      call.epilogue.quantizes() ? on_wire(call.hidden) + on_wire(scales * sizeof(float)) : row;
  const bool one_shot = call.algorithm == Algorithm::one_shot;
  std::size_t all = 0;
  std::size_t longest = 0;
  for (int d = 0; d < launch.blocks.dp(); ++d) {
    const std::size_t rows = launch.blocks.packed_end(d) - launch.blocks.start(Coordinates::packed, d);
    all += rows;
    longest = std::max(longest, rows);
  }
  if (grid.world.size == 1) return 0;
  const auto tp = static_cast<std::size_t>(grid.tp.size);
  const auto world = static_cast<std::size_t>(grid.world.size);
  if (one_shot && call.body == Body::gather) return (tp + (grid.dp.size > 1 ? 1 : 0)) * all * row;
  if (one_shot) return world * longest * row;
  const std::size_t summed = (call.body == Body::gather ? tp : world) * ((longest + tp - 1) / tp) * row;
  return std::max(summed, (call.body == Body::gather ? all : longest) * out + longest * row);
}

/// Every grid, row and workspace: what a pass sends fits a lane's part of each area, its images fit shared
/// memory or that part, and rows that cannot are refused.
TEST(RowLaunches, EveryRowFitsOrIsRefused) {
  int refused = 0;
  int launched = 0;
  for (const auto& [tp, dp] : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 2}, {3, 5}, {1, 16}, {16, 1}})
    for (const int lanes : {1, 3, 22, most_lanes})
      for (const std::size_t workspace :
           {std::size_t{64} << 10U, std::size_t{1} << 20U, std::size_t{4} << 20U})
        for (const Protocol protocol : {Protocol::packets, Protocol::lines, Protocol::barriers})
          for (const Op op : {Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce})
            for (const Algorithm algorithm : {Algorithm::one_shot, Algorithm::two_shot})
              for (const DType dtype : {DType::bf16, DType::fp32})
                for (const Quantize quantize :
                     {Quantize::none, Quantize::per_token, Quantize::per_128_columns})
                  for (const std::size_t hidden : {1UL, 130UL, 2880UL, 7168UL, 30000UL})
                    for (const std::size_t rows : {1UL, 7UL, 1000UL}) {
                      const Grid grid = Grid::of(tp, dp, 0);
                      const LaunchLimits limits = limits_for(lanes, workspace, true);
                      const Call call =
                          row_call(op, algorithm, protocol, dtype, grid, rows, hidden, quantize);
                      RowLaunch launch;
                      try {
                        launch = row_launch_for(call, grid, limits);
                      } catch (const InvalidArgument&) {
                        ++refused;
                        // A row of each source in packets is four times the row at most.
                        EXPECT_GT(static_cast<std::size_t>(tp * dp + 1) * 5 * (hidden * size_of(dtype) + 128),
                                  workspace);
                        continue;
                      }
                      ++launched;
                      ASSERT_LE(launch.lanes, limits.most_lanes);
                      ASSERT_LE(static_cast<std::size_t>(launch.lanes), launch.blocks.elements());
                      ASSERT_EQ(launch.kind == RowKind::packets, protocol == Protocol::packets);
                      ASSERT_EQ(launch.threads % 32, 0);
                      ASSERT_LE(launch.threads, most_row_threads);
                      ASSERT_LE(launch.lane_bytes * static_cast<std::size_t>(launch.lanes), workspace);
                      ASSERT_LE(bytes_of_pass(call, grid, launch), launch.lane_bytes);
                      ASSERT_GE(launch.rows_at_once, 1U);
                      ASSERT_LE(launch.shared_bytes, most_image_bytes);
                      ASSERT_EQ(launch.blocks.step(), 1U);
                      const std::size_t images = launch.rows_at_once * std::size_t{launch.images.bytes};
                      ASSERT_LE(images, launch.images_in_workspace ? launch.lane_bytes : launch.shared_bytes);
                      ASSERT_GE(launch.images.bytes, hidden * size_of(dtype));
                    }
  EXPECT_GT(launched, 5 * refused);
}

/// A warp's teams receive in step, four sources at a time: where the residual is a fifth one of some rows,
/// they have one row at a time.
TEST(RowLaunches, RowsWithAFifthSourceAreTakenOneByOne) {
  const auto rows_at_a_time = [](int tp, int dp, Algorithm algorithm, Protocol protocol) {
    const Grid grid = Grid::of(tp, dp, 0);
    const Call call = row_call(Op::all_reduce_all_gather, algorithm, protocol, DType::bf16, grid, 20, 520,
                               Quantize::per_128_columns);
    return row_launch_for(call, grid, limits_for(8, std::size_t{1} << 20U, true)).deal.rows_step;
  };
  using enum Algorithm;
  EXPECT_EQ(rows_at_a_time(4, 2, one_shot, Protocol::lines), 1U);
  EXPECT_EQ(rows_at_a_time(8, 2, one_shot, Protocol::lines), 1U);
  EXPECT_GT(rows_at_a_time(2, 2, one_shot, Protocol::lines), 1U);
  EXPECT_GT(rows_at_a_time(4, 1, one_shot, Protocol::lines), 1U);
  EXPECT_GT(rows_at_a_time(4, 2, two_shot, Protocol::lines), 1U);
}

TEST(RowLaunches, FewRowsTakeALaneEachAndManyAllLanes) {
  const Grid grid = Grid::of(2, 2, 0);
  const LaunchLimits limits = limits_for(most_lanes, std::size_t{4} << 20U, true);
  const auto launch = [&](std::size_t rows) {
    return row_launch_for(row_call(Op::all_reduce_all_gather, Algorithm::two_shot, Protocol::lines,
                                   DType::bf16, grid, rows, 4096, Quantize::none),
                          grid, limits);
  };
  EXPECT_EQ(launch(1).lanes, 1);
  EXPECT_EQ(launch(1).threads, 288);  // for 35 tiles of eight
  EXPECT_EQ(launch(8).lanes, 12);     // and four of the other block
  EXPECT_EQ(launch(1000).passes * launch(1000).lanes >= 128, true);
}

}  // namespace
}  // namespace mixcomm::cuda
