// What `mixcomm tune` makes of its measurements.
#include "measure/tuning_steps.hpp"

#include <gtest/gtest.h>

#include <set>

namespace mixcomm::tools {
namespace {

const std::vector<Variant> candidates{
    {Algorithm::one_shot, {}},
    {Algorithm::one_shot, {Protocol::lines, 0, 128}},
    {Algorithm::two_shot, {Protocol::barriers, 0, 512}},
};

TEST(TuningSteps, AChangeMustPay) {
  ChoiceMaker maker(Op::all_gather, true, candidates);
  maker.add(4096, {2.0, 1.99, 3.0});   // of the first size the quickest
  maker.add(8192, {1.95, 2.0, 3.0});   // 2.5 %: noise
  maker.add(16384, {1.93, 2.0, 3.0});  // 3.5 %
  maker.add(65536, {9.0, 8.0, 7.5});   // two others are quicker: the quickest
  maker.add(262144, {9.0, 9.0, 9.2});
  const TuningTable::Choice choice = maker.finish();
  EXPECT_EQ(choice.op, Op::all_gather);
  EXPECT_TRUE(choice.symmetric);
  ASSERT_EQ(choice.steps.size(), 3U);
  EXPECT_EQ(choice.steps[0].up_to_bytes, 11585U);  // between 8192 and 16384
  EXPECT_EQ(choice.steps[0].algorithm, Algorithm::one_shot);
  EXPECT_EQ(choice.steps[0].shape, (LaunchShape{Protocol::lines, 0, 128}));
  EXPECT_EQ(choice.steps[1].up_to_bytes, 32768U);
  EXPECT_EQ(choice.steps[1].shape, LaunchShape{});
  EXPECT_EQ(choice.steps[2].up_to_bytes, UINT64_MAX);
  EXPECT_EQ(choice.steps[2].algorithm, Algorithm::two_shot);
  EXPECT_EQ(choice.steps[2].shape, (LaunchShape{Protocol::barriers, 0, 512}));
}

/// What comes of it holds together for whoever reads it.
TEST(TuningSteps, ATableOfThemIsRead) {
  TuningTable table;
  table.machine = "NVIDIA H200, NVLink";
  table.backend = BackendKind::cuda;
  table.tp = 4;
  for (const Op op : {Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce}) {
    ChoiceMaker maker(op, false, candidates);
    double turn = 1;  // another candidate is the quickest at each size
    for (std::size_t bytes = 4096; bytes <= 1U << 20U; bytes *= 2) {
      turn = 3 - turn;
      maker.add(bytes, {turn, 3 - turn, 1.4});
    }
    add_choice(table, maker.finish());
  }
  const TuningTable read = TuningTable::parse(table.text(), "here");
  EXPECT_EQ(read.hash(), table.hash());
  ASSERT_EQ(read.choices.size(), 3U);  // without DP ranks, all_reduce is the first of the two
  EXPECT_EQ(read.choices[1].op, Op::all_reduce);
  EXPECT_EQ(read.choices[0].steps.size(), 9U);
}

TEST(TuningSteps, NoSizeComesTwice) {
  for (const int tp : {1, 2, 4})
    for (const int dp : {1, 2, 3, 8, 64})
      for (const std::size_t factor : {2, 4}) {
        const auto points = points_of({.tp = tp, .dp = dp, .most_bytes = 1U << 20U, .factor = factor});
        std::set<std::tuple<Op, Buffers, std::size_t>> seen;
        std::size_t last = 0;
        std::pair<Op, Buffers> kind{};
        for (const auto& [cell, bytes] : points) {
          EXPECT_EQ(cell.rows.size(), static_cast<std::size_t>(dp));
          EXPECT_TRUE(seen.insert({cell.op, cell.buffers, bytes}).second) << tp << "x" << dp << " " << bytes;
          EXPECT_TRUE(kind != std::pair(cell.op, cell.buffers) || bytes > last);  // the smallest first
          kind = {cell.op, cell.buffers};
          last = bytes;
        }
        EXPECT_EQ(points.front().cell.rows[0], 1U);
      }
}

}  // namespace
}  // namespace mixcomm::tools
