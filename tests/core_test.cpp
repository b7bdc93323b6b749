// Grids, names, the rules of a call, and the decision layer: no communication.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <optional>

#include "algorithms/blocks.hpp"
#include "mixcomm/mixcomm.hpp"
#include "steps.hpp"
#include "support/spawn.hpp"
#include "verify/numbers.hpp"

namespace mixcomm::test {
namespace {

TEST(Grid, TeamsHoldTheRanksThatTheyShould) {
  for (int tp = 1; tp <= 4; ++tp)
    for (int dp = 1; dp <= 4; ++dp)
      for (int rank = 0; rank < tp * dp; ++rank) {
        const Grid g = Grid::of(tp, dp, rank);
        EXPECT_EQ(g.rank(), rank);
        EXPECT_EQ(g.world.size, tp * dp);
        EXPECT_EQ(g.tp.rank(g.tp.member), rank);
        EXPECT_EQ(g.dp.rank(g.dp.member), rank);
        for (int t = 0; t < tp; ++t) EXPECT_EQ(g.tp.rank(t), rank / tp * tp + t);
        for (int d = 0; d < dp; ++d) {
          EXPECT_EQ(g.dp.rank(d), d * tp + rank % tp);
          for (int t = 0; t < tp; ++t) {
            EXPECT_EQ(g.over_tp(d).rank(t, 0), d * tp + t);
            EXPECT_EQ(g.over_world().rank(t, d), d * tp + t);
          }
        }
        EXPECT_EQ(g.tp_only().world, g.tp);
        EXPECT_EQ(g.tp_only().dp.size, 1);
        EXPECT_EQ(g.dp_only().world, g.dp);
        for (int d = 0; d < dp; ++d) EXPECT_EQ(g.dp_only().over_tp(d).rank(0, 0), g.dp.rank(d));
      }
}

TEST(Operation, AFusedOneIsTwoOnOneTeamEach) {
  for (const Op op : {Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
                      Op::reduce_scatter_all_reduce}) {
    const std::optional<TwoCalls> two = two_calls_of(op);
    EXPECT_EQ(two.has_value(), shape_of(op).team == TeamKind::world) << name(op);
    if (!two) continue;
    EXPECT_FALSE(two_calls_of(two->first) || two_calls_of(two->second)) << name(op);
    // Rows of other DP ranks come last, and go first: what is between the two is one block.
    const bool gathers = shape_of(op).body == Body::gather;
    EXPECT_EQ(shape_of(gathers ? two->second : two->first).team, TeamKind::dp) << name(op);
    EXPECT_EQ(shape_of(gathers ? two->second : two->first).body, shape_of(op).body) << name(op);
    EXPECT_EQ(gathers ? two->first : two->second, Op::all_reduce) << name(op);
  }
}

TEST(Operation, ComposedIsTwoStepsWhereBothTeamsHaveSeveralRanks) {
  const Grid grid = Grid::of(2, 3, 4);
  const OpSteps one = steps_of(Op::all_reduce_all_gather, Algorithm::two_shot, grid);
  ASSERT_EQ(one.size(), 1U);
  EXPECT_EQ(one[0].op, Op::all_reduce_all_gather);
  EXPECT_EQ(one[0].algorithm, Algorithm::two_shot);
  EXPECT_EQ(one[0].grid, grid);

  const OpSteps two = steps_of(Op::all_reduce_all_gather, Algorithm::composed, grid);
  ASSERT_EQ(two.size(), 2U);
  EXPECT_EQ(two[0].op, Op::all_reduce);
  EXPECT_EQ(two[0].grid, grid.tp_only());
  EXPECT_EQ(two[1].op, Op::all_gather);
  EXPECT_EQ(two[1].grid, grid.dp_only());
  for (const OpStep& step : two) {
    EXPECT_EQ(step.transport, StepTransport::own);
    EXPECT_EQ(step.algorithm, Algorithm::automatic);
  }

  const OpSteps nccl = steps_of(Op::reduce_scatter_all_reduce, Algorithm::nccl, grid);
  ASSERT_EQ(nccl.size(), 2U);
  EXPECT_EQ(nccl[0].op, Op::reduce_scatter);
  EXPECT_EQ(nccl[1].op, Op::all_reduce);
  for (const OpStep& step : nccl) EXPECT_EQ(step.transport, StepTransport::nccl);

  for (const Grid& line : {Grid::of(4, 1, 0), Grid::of(1, 4, 0)}) {
    const OpSteps alone = steps_of(Op::all_reduce_all_gather, Algorithm::composed, line);
    ASSERT_EQ(alone.size(), 1U);
    EXPECT_EQ(alone[0].op, Op::all_reduce_all_gather);
  }
  EXPECT_EQ(steps_of(Op::all_reduce, Algorithm::composed, grid).size(), 1U);
}

TEST(Blocks, PartsCoverEverythingOnce) {
  for (const std::size_t size : {0UL, 1UL, 63UL, 64UL, 65UL, 1000UL, 4096UL})
    for (int n = 1; n <= 8; ++n) {
      std::size_t next = 0;
      for (int m = 0; m < n; ++m) {
        const Range r = part(size, m, n);
        if (r.size == 0) continue;
        EXPECT_EQ(r.begin, next);
        next = r.begin + r.size;
      }
      EXPECT_EQ(next, size);
    }
}

const std::vector<std::vector<std::size_t>>& block_sizes() {
  static const std::vector<std::vector<std::size_t>> sizes = {{0},
                                                              {1},
                                                              {64},
                                                              {1000},
                                                              {0, 0},
                                                              {7, 0, 65},
                                                              {4096, 64, 1},
                                                              {63, 64, 65, 129},
                                                              {0, 5000, 0, 0, 3},
                                                              {128, 128, 128}};
  return sizes;
}

Blocks blocks_of(const std::vector<std::size_t>& sizes) {
  return {static_cast<int>(sizes.size()), [&](int d) { return sizes[static_cast<std::size_t>(d)]; }};
}

TEST(Blocks, PiecesCoverEveryBlockOnceAndPackInGranules) {
  for (const auto& sizes : block_sizes())
    for (const int pieces : {1, 2, 3, 7, 64}) {
      Blocks blocks = blocks_of(sizes);
      std::vector<std::size_t> next(sizes.size());
      for (int piece = 0; piece < pieces; ++piece) {
        blocks.cut(pieces);
        blocks.cover(piece);
        std::size_t packed = 0;
        std::size_t before = 0;
        for (int d = 0; d < blocks.dp(); ++d) {
          const auto block = static_cast<std::size_t>(d);
          EXPECT_EQ(blocks.full_size(d), sizes[block]);
          if (blocks.size(d) != 0) {
            EXPECT_EQ(blocks.start(Coordinates::one_block, d), next[block]);
            EXPECT_EQ(blocks.start(Coordinates::all_blocks, d), before + next[block]);
          }
          EXPECT_EQ(blocks.start(Coordinates::packed, d), packed);
          EXPECT_EQ(blocks.block(d).begin, packed);
          EXPECT_EQ(blocks.block(d).size, blocks.size(d));
          EXPECT_EQ(blocks.overlap(blocks.everything(), d).size, blocks.size(d));
          for (int other = 0; other < blocks.dp(); ++other)
            EXPECT_EQ(blocks.overlap(blocks.block(other), d).size, other == d ? blocks.size(d) : 0);
          EXPECT_EQ(packed % granule, 0U);
          next[block] += blocks.size(d);
          EXPECT_GE(blocks.packed_end(d) - packed, blocks.size(d));
          packed = blocks.packed_end(d);
          before += sizes[block];
        }
        EXPECT_EQ(blocks.packed_size(), packed);
        EXPECT_EQ(blocks.elements(), before);
      }
      EXPECT_EQ(next, sizes) << pieces << " pieces";
    }
}

TEST(Blocks, SharesOfAllMembersHoldEveryElementOnce) {
  for (const auto& sizes : block_sizes())
    for (const int pieces : {1, 3})
      for (int members = 1; members <= 16; ++members) {
        Blocks blocks = blocks_of(sizes);
        for (int piece = 0; piece < pieces; ++piece) {
          blocks.cut(pieces);
          blocks.cover(piece);
          const std::size_t fair = part(blocks.packed_size(), 0, members).size;
          std::vector<std::size_t> shared(static_cast<std::size_t>(members));
          for (int d = 0; d < blocks.dp(); ++d) {
            std::vector<int> times(blocks.size(d));
            for (int m = 0; m < members; ++m) {
              const Range share = blocks.overlap(blocks.share(m, members), d);
              if (share.size == 0) continue;
              EXPECT_EQ(share.begin % granule, 0U);
              ASSERT_LE(share.begin + share.size, blocks.size(d));
              for (std::size_t i = 0; i < share.size; ++i) ++times[share.begin + i];
              shared[static_cast<std::size_t>(m)] += share.size;
            }
            EXPECT_EQ(times, std::vector<int>(blocks.size(d), 1)) << members << " members, block " << d;
          }
          for (const std::size_t each : shared) EXPECT_LE(each, fair);
        }
      }
}

TEST(Blocks, PassesFitTheWorkspaceAndAreFew) {
  for (const auto& sizes : block_sizes())
    for (const std::size_t granules : {5UL, 6UL, 16UL, 1000UL}) {
      const std::size_t capacity = granules * granule;  // five blocks at most, each of at least a granule
      Blocks blocks = blocks_of(sizes);
      const int passes = passes_for(blocks, capacity);
      for (int pass = 0; pass < passes; ++pass) {
        blocks.cover(pass);
        EXPECT_LE(blocks.packed_size(), capacity);
      }
      if (passes == 1) continue;
      blocks.cut(passes - 1);
      EXPECT_GT(blocks.packed_size(), capacity) << passes << " passes where fewer would do";
    }
}

/// The checker's own numbers, against rounding that looks at both neighbours.
TEST(Numbers, RoundToTheNearestAndTiesToEven) {
  using verify::decode;
  using verify::encode;
  for (const DType dtype : {DType::bf16, DType::fp16}) {
    const std::uint32_t infinity = dtype == DType::bf16 ? 0x7F80U : 0x7C00U;
    for (std::uint32_t bits = 0; bits < infinity; ++bits) {
      const float value = decode(dtype, bits);
      ASSERT_EQ(encode(dtype, value), bits);
      ASSERT_EQ(encode(dtype, -value), bits | 0x8000U);
      ASSERT_EQ(decode(dtype, bits | 0x8000U), -value);
      // The value after the largest one is as far off as if it were not infinite.
      const double above = bits + 1 < infinity ? decode(dtype, bits + 1)
                                               : 2.0 * value - static_cast<double>(decode(dtype, bits - 1));
      const double middle = (static_cast<double>(value) + above) / 2;
      const auto halfway = static_cast<float>(middle);
      if (static_cast<double>(halfway) == middle) {
        ASSERT_EQ(encode(dtype, halfway), bits + bits % 2);
      }
      ASSERT_EQ(encode(dtype, std::nextafter(halfway, 0.0F)), bits);
      ASSERT_EQ(encode(dtype, std::nextafter(halfway, INFINITY)), bits + 1);
    }
    EXPECT_EQ(encode(dtype, INFINITY), infinity);
    EXPECT_EQ(encode(dtype, 3e38F * 10), infinity);
    EXPECT_TRUE(std::isinf(decode(dtype, infinity)) && std::isnan(decode(dtype, infinity + 1)));
  }
}

TEST(Names, GoBothWaysAndRefuseOthers) {
  for (const auto op : {Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
                        Op::reduce_scatter_all_reduce})
    EXPECT_EQ(op_from_name(name(op)), op);
  for (const auto a :
       {Algorithm::automatic, Algorithm::one_shot, Algorithm::two_shot, Algorithm::composed, Algorithm::nccl})
    EXPECT_EQ(algorithm_from_name(name(a)), a);
  for (const auto b : {BackendKind::cpu, BackendKind::cuda}) EXPECT_EQ(backend_from_name(name(b)), b);
  for (const auto p : {Protocol::automatic, Protocol::packets, Protocol::lines, Protocol::barriers})
    EXPECT_EQ(protocol_from_name(name(p)), p);
  for (const auto d : {DType::bf16, DType::fp16, DType::fp32}) EXPECT_EQ(dtype_from_name(name(d)), d);
  try {
    (void)dtype_from_name("fp8");
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "no dtype is named 'fp8'; there are: bf16, fp16, fp32");
  }
}

// --- the rules of a call
// -------------------------------------------------------------------------------------------------

TEST(Rules, ABadCallIsRefusedBeforeAnythingIsSent) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator c(bootstrap, {.tp = 1, .dp = 2});
    std::vector<float> a(64);
    std::vector<float> b(64);
    const auto t = [](std::vector<float>& v, std::size_t rows, std::size_t hidden) {
      return tensor(v.data(), rows, hidden);
    };
    std::string problems;
    const auto refused = [&](const char* why, const char* expected, const std::function<void()>& call) {
      try {
        call();
        problems += std::string(why) + " was accepted; ";
      } catch (const InvalidArgument& error) {
        if (std::string(error.what()).find(expected) == std::string::npos)
          problems += std::string(why) + " gives: " + error.what() + "; ";
      }
    };
    refused("a wrong number of rows", "'in' has 3 rows", [&] { c.all_gather(t(a, 3, 4), t(b, 4, 4), 2); });
    refused("a wrong output", "'out' has 3 rows", [&] { c.all_gather(t(a, 2, 4), t(b, 3, 4), 2); });
    refused("another hidden", "hidden 4 and 'out' 5", [&] { c.all_gather(t(a, 2, 4), t(b, 4, 5), 2); });
    refused("another dtype", "is fp32 and 'out' is bf16", [&] {
      c.all_gather(t(a, 2, 4), Tensor{b.data(), 4, 4, DType::bf16}, 2);
    });
    refused("null", "'in' is null", [&] {
      c.all_gather(ConstTensor{nullptr, 2, 4, DType::fp32}, t(b, 4, 4), 2);
    });
    const std::vector<std::size_t> three = {1, 1, 1};
    refused("three counts", "3 row counts were given for 2",
            [&] { c.all_gather(t(a, 1, 4), t(b, 3, 4), std::span(three)); });
    refused("an overlap", "overlap", [&] { c.all_gather(tensor(a.data() + 1, 2, 4), t(a, 4, 4), 2); });
    refused("a huge tensor", "larger than memory", [&] {
      c.all_gather(ConstTensor{a.data(), std::size_t{1} << 40, std::size_t{1} << 40, DType::fp32},
                   Tensor{b.data(), std::size_t{2} << 40, std::size_t{1} << 40, DType::fp32},
                   std::size_t{1} << 40);
    });
    refused("no bytes", "ask for 1 to", [&] { (void)c.allocate(0); });
    refused("too many bytes", "ask for 1 to", [&] { (void)c.allocate(SIZE_MAX - 4096); });
    if (!problems.empty()) return problems;
    a.assign(64, static_cast<float>(bootstrap.rank() + 1));
    c.all_gather(t(a, 2, 4), t(b, 4, 4), 2);  // still usable
    return b[0] == 1.0F && b[8] == 2.0F ? "" : "wrong result after refused calls";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Rules, CountsInDeviceMemoryAndNcclNeedTheCudaBackend) {
  const auto results = spawn(Ranks::threads, 1, [](Bootstrap& bootstrap) -> std::string {
    Communicator c(bootstrap, {.tp = 1, .dp = 1});
    std::vector<float> a(8);
    std::vector<float> b(8);
    const std::int64_t count = 1;
    int refused = 0;
    for (const bool on_device : {true, false}) try {
        c.all_gather(tensor(std::as_const(a).data(), 1, 8), tensor(b.data(), 1, 8),
                     on_device ? RowCounts::on_device(&count, 1) : RowCounts(1),
                     {.algorithm = on_device ? Algorithm::automatic : Algorithm::nccl});
      } catch (const Unsupported& error) {
        refused += std::string(error.what()).find("backend cuda") != std::string::npos ? 1 : 0;
      }
    c.check();
    return refused == 2 ? "" : "something was accepted";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Rules, AGridMustHoldAllRanks) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator c(bootstrap, {.tp = 3, .dp = 1});
    return "";
  });
  for (const auto& result : results)
    EXPECT_EQ(result.substr(0, 87),
              "InvalidArgument: rank 0, creating a communicator: a grid of tp 3 x dp 1 needs 3 ranks, ");
}

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
