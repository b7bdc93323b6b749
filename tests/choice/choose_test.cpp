// The static rules of choosing.
#include <gtest/gtest.h>

#include <cstddef>

#include "mixcomm/choice.hpp"
#include "mixcomm/mixcomm.hpp"

namespace mixcomm::test {
namespace {

TEST(Choose, DependsOnWhatAWaitCosts) {
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = 4096, .symmetric = true}), Algorithm::two_shot);
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = 4096}), Algorithm::one_shot);
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = 4096, .symmetric = true, .crowded = true}),
            Algorithm::one_shot);
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 4, .bytes = 1 << 20, .crowded = true}), Algorithm::two_shot);
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = 1 << 20, .crowded = true}), Algorithm::two_shot);
  // One pass of one_shot holds 512 KiB.
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = 1 << 19}), Algorithm::one_shot);
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = (1 << 19) + 8192}), Algorithm::two_shot);
}

TEST(Choose, TwoRanksOfManyThreadsStageLessUntilMeetingsCount) {
  const auto chosen = [](std::size_t bytes, int lanes, bool epilogue = false) {
    return choose({.op = Op::all_reduce, .tp = 2, .bytes = bytes, .epilogue = epilogue, .lanes = lanes});
  };
  EXPECT_EQ(chosen(std::size_t{32} << 10U, 8), Algorithm::one_shot);  // the caller's alone
  EXPECT_EQ(chosen(std::size_t{128} << 10U, 8), Algorithm::two_shot);
  EXPECT_EQ(chosen(std::size_t{128} << 10U, 1), Algorithm::one_shot);
  EXPECT_EQ(chosen(std::size_t{1} << 20U, 8), Algorithm::two_shot);
  EXPECT_EQ(chosen(std::size_t{8} << 20U, 8), Algorithm::one_shot);
  EXPECT_EQ(chosen(std::size_t{8} << 20U, 8, true), Algorithm::two_shot);  // rows are finished once
  EXPECT_EQ(chosen(std::size_t{8} << 20U, 1), Algorithm::two_shot);
}

/// What need not be pushed, nor summed twice, is better read, at any size.
TEST(Choose, ReadsWhereNothingIsReadManyTimes) {
  constexpr std::size_t large = std::size_t{1} << 28U;
  EXPECT_EQ(choose({.op = Op::all_gather, .dp = 2, .bytes = large, .symmetric = true}), Algorithm::one_shot);
  EXPECT_EQ(choose({.op = Op::all_gather, .dp = 2, .bytes = large}), Algorithm::one_shot);
  EXPECT_EQ(choose({.op = Op::reduce_scatter, .dp = 2, .bytes = large, .symmetric = true}),
            Algorithm::two_shot);
}

/// hidden 4096 in bf16.
Circumstances on_gpus(Op op, std::size_t rows_each, Link link) {
  return {.op = op,
          .tp = 2,
          .dp = 2,
          .bytes = rows_each * 2 * 8192,
          .largest_block_bytes = rows_each * 8192,
          .backend = BackendKind::cuda,
          .link = link};
}

TEST(Choose, FinishesRowsOnceWhereThatPays) {
  constexpr std::size_t row = 8192;
  constexpr auto in = Op::all_reduce_all_gather;
  constexpr auto out = Op::reduce_scatter_all_reduce;
  for (const bool crowded : {false, true}) {
    EXPECT_EQ(choose({.op = in, .tp = 2, .dp = 2, .bytes = 2 * row, .crowded = crowded, .epilogue = true}),
              Algorithm::two_shot);
    EXPECT_EQ(choose({.op = out, .tp = 2, .dp = 2, .bytes = 2 * row, .crowded = crowded, .epilogue = true}),
              Algorithm::one_shot);
  }
  EXPECT_EQ(choose({.op = in, .tp = 2, .bytes = row, .symmetric = true, .epilogue = true}),
            Algorithm::one_shot);
  EXPECT_EQ(choose({.op = in, .tp = 2, .bytes = 4 * row, .symmetric = true, .epilogue = true}),
            Algorithm::two_shot);
  EXPECT_EQ(choose({.op = out, .tp = 2, .dp = 2, .bytes = 4 * row, .crowded = true, .epilogue = true}),
            Algorithm::two_shot);
}

TEST(Choose, OnGpusGoesByTheirLink) {
  constexpr auto in = Op::all_reduce_all_gather;
  constexpr auto out = Op::reduce_scatter_all_reduce;
  EXPECT_EQ(choose(on_gpus(in, 16, Link::nvlink)), Algorithm::one_shot);
  EXPECT_EQ(choose(on_gpus(in, 16, Link::shared)), Algorithm::two_shot);
  EXPECT_EQ(choose(on_gpus(in, 64, Link::nvlink)), Algorithm::two_shot);
  EXPECT_EQ(choose(on_gpus(out, 64, Link::nvlink)), Algorithm::two_shot);
  EXPECT_EQ(choose(on_gpus(out, 256, Link::nvlink)), Algorithm::two_shot);

  const auto protocol = [](const Circumstances& c) { return choose_shape(c, choose(c)).protocol; };
  EXPECT_EQ(protocol(on_gpus(in, 1, Link::nvlink)), Protocol::packets);
  EXPECT_EQ(protocol(on_gpus(in, 16, Link::nvlink)), Protocol::lines);
  EXPECT_EQ(protocol(on_gpus(in, 256, Link::nvlink)), Protocol::lines);
  Circumstances symmetric = on_gpus(in, 256, Link::nvlink);
  symmetric.symmetric = true;
  EXPECT_EQ(protocol(symmetric), Protocol::lines);
  symmetric.bytes *= 2;
  EXPECT_EQ(protocol(symmetric), Protocol::barriers);
  for (const Link link : {Link::shared, Link::pcie})
    for (const std::size_t rows : {1U, 16U, 256U})
      EXPECT_NE(protocol(on_gpus(out, rows, link)), Protocol::lines) << name(link) << rows;
}

TEST(Choose, ShapesAreForAProtocol) {
  const LaunchShape rule{Protocol::packets, 0, 128};
  EXPECT_EQ(rule.with({}), rule);
  EXPECT_EQ(rule.with({.protocol = Protocol::lines}), (LaunchShape{Protocol::lines, 0, 0}));
  EXPECT_EQ(rule.with({.threads = 64}), (LaunchShape{Protocol::packets, 0, 64}));
  EXPECT_EQ(rule.with({.protocol = Protocol::packets, .lanes = 8}), (LaunchShape{Protocol::packets, 8, 128}));
}

/// Without sums over TP ranks a second hop sends no byte less.
TEST(Choose, OnGpusASecondHopMustPay) {
  for (const Op op : {Op::all_gather, Op::reduce_scatter}) {
    Circumstances c = on_gpus(op, 4096, Link::nvlink);
    c.tp = 1;
    EXPECT_EQ(choose(c), Algorithm::one_shot);
  }
}

/// One_shot sends the largest block to everyone; two_shot shares it out.
TEST(Choose, OnGpusUnevenRowsCount) {
  Circumstances c = on_gpus(Op::all_reduce_all_gather, 16, Link::nvlink);
  EXPECT_EQ(choose(c), Algorithm::one_shot);
  c.largest_block_bytes = c.bytes;
  EXPECT_EQ(choose(c), Algorithm::two_shot);
}

}  // namespace
}  // namespace mixcomm::test
