// Grids, names, the rules of a call, and the decision layer: no communication.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <optional>

#include "check_lanes.hpp"
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

TEST(Rules, LanesOfKernelsHaveRoomForATileOfEachRank) {
  const auto refused = [](int lanes, std::size_t bytes, int members) -> std::string {
    try {
      check_lanes({.lanes = lanes, .bytes = bytes}, 128, members);
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "";
  };
  constexpr std::size_t small = std::size_t{64} << 10U;
  EXPECT_EQ(refused(128, small, 2), "");
  EXPECT_EQ(refused(64, small, 4), "");
  const std::string text = refused(128, small, 4);
  EXPECT_NE(text.find("each of 128 lanes has 512"), std::string::npos) << text;
  EXPECT_NE(text.find("give 131072 bytes or more"), std::string::npos) << text;
  EXPECT_EQ(refused(128, 131072, 4), "");
  EXPECT_NE(refused(129, small, 2).find("room for 1 to 128"), std::string::npos);
  EXPECT_NE(refused(0, small, 2).find("lanes is 0"), std::string::npos);
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

}  // namespace
}  // namespace mixcomm::test
