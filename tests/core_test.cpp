// Grids, names, the rules of a call, and the decision layer: no communication.
#include <gtest/gtest.h>

#include "algorithms/blocks.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/spawn.hpp"

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

TEST(Blocks, PartsCoverEverythingOnce) {
  for (const std::size_t size : {0UL, 1UL, 63UL, 64UL, 65UL, 1000UL, 4096UL})
    for (int n = 1; n <= 8; ++n) {
      std::size_t next = 0;
      for (int m = 0; m < n; ++m) {
        const Range r = part(size, {0, 1, n, m});
        if (r.size == 0) continue;
        EXPECT_EQ(r.begin, next);
        next = r.begin + r.size;
      }
      EXPECT_EQ(next, size);
    }
}

TEST(Names, GoBothWaysAndRefuseOthers) {
  for (const auto op : {Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
                        Op::reduce_scatter_all_reduce})
    EXPECT_EQ(op_from_name(name(op)), op);
  for (const auto a : {Algorithm::automatic, Algorithm::one_shot, Algorithm::two_shot, Algorithm::composed})
    EXPECT_EQ(algorithm_from_name(name(a)), a);
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

TEST(Rules, AGridMustHoldAllRanks) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator c(bootstrap, {.tp = 3, .dp = 1});
    return "";
  });
  EXPECT_EQ(results[0].substr(0, 50), "InvalidArgument: a grid of tp 3 x dp 1 needs 3 ran");
}

// --- the decision layer
// --------------------------------------------------------------------------------------------------

std::string steps(const Layout& from, const Layout& to, int tp, int dp) {
  std::string text;
  for (const auto& step : collective_for(from, to, tp, dp).steps)
    text += (text.empty() ? "" : ", ") + std::string(name(step));
  return text.empty() ? "nothing" : text;
}

constexpr Layout attention_out{Rows::by_dp_rank, Partial::tp};
constexpr Layout moe_in{Rows::replicated, Partial::none};
constexpr Layout moe_out{Rows::replicated, Partial::world};
constexpr Layout next_in{Rows::by_dp_rank, Partial::none};

TEST(Plan, BoundariesOfADecoderLayer) {
  EXPECT_EQ(steps(attention_out, moe_in, 2, 4), "all_reduce_all_gather");
  EXPECT_EQ(steps(moe_out, next_in, 2, 4), "reduce_scatter_all_reduce");
  EXPECT_EQ(steps(attention_out, moe_in, 4, 1), "all_reduce");
  EXPECT_EQ(steps(moe_out, next_in, 4, 1), "all_reduce");
  EXPECT_EQ(steps(attention_out, moe_in, 1, 4), "all_gather");
  EXPECT_EQ(steps(moe_out, next_in, 1, 4), "reduce_scatter");
  EXPECT_EQ(steps(attention_out, moe_in, 1, 1), "nothing");
  EXPECT_EQ(steps(moe_out, next_in, 1, 1), "nothing");
}

TEST(Plan, WhatCannotBeBridgedIsRefused) {
  EXPECT_THROW((void)collective_for({Rows::by_dp_rank, Partial::world}, next_in, 2, 2), InvalidArgument);
  EXPECT_THROW((void)collective_for({Rows::by_dp_rank, Partial::dp}, next_in, 2, 2), InvalidArgument);
  EXPECT_THROW((void)collective_for(next_in, attention_out, 2, 2), InvalidArgument);
  EXPECT_THROW((void)collective_for(next_in, moe_in, 0, 2), InvalidArgument);
  EXPECT_EQ(steps({Rows::by_dp_rank, Partial::world}, next_in, 4, 1),
            "all_reduce");  // one DP rank: the rows are the same
}

TEST(Plan, ATransitionChecksItsTensors) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 1, .dp = 2});
    const Transition slice = collective_for(moe_in, next_in, 1, 2);
    std::vector<float> a(16);
    std::vector<float> b(16);
    const std::vector<std::size_t> rows = {1, 1};
    const std::vector<std::size_t> too_few = {1};
    int refused = 0;
    const auto attempt = [&](ConstTensor in, Tensor out, RowCounts counts) {
      try {
        run(communicator, slice, in, out, counts);
      } catch (const InvalidArgument&) {
        ++refused;
      }
    };
    attempt(tensor(a.data(), 2, 4), tensor(b.data(), 1, 4), rows);  // right
    attempt(tensor(a.data(), 2, 4), tensor(b.data(), 1, 4), too_few);
    attempt(tensor(a.data(), 1, 4), tensor(b.data(), 1, 4), rows);
    attempt(tensor(a.data(), 2, 4), tensor(b.data(), 2, 4), rows);
    attempt(tensor(a.data(), 2, 4), Tensor{b.data(), 1, 8, DType::bf16}, rows);
    return refused == 4 ? "" : std::to_string(refused) + " were refused";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Choose, DependsOnWhatAWaitCosts) {
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = 4096, .symmetric = true}), Algorithm::two_shot);
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = 4096}), Algorithm::one_shot);
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = 4096, .symmetric = true, .crowded = true}),
            Algorithm::one_shot);
  EXPECT_EQ(choose({.op = Op::all_reduce, .tp = 2, .bytes = 1 << 20, .crowded = true}), Algorithm::two_shot);
}

/// Every pair of layouts, run for real: either refused, or the result is the sum that the layouts speak of.
TEST(Plan, EveryTransitionGivesTheRightSum) {
  int bridged = 0;
  for (const auto& [tp, dp] : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {3, 2}, {2, 3}})
    for (const Rows from_rows : {Rows::replicated, Rows::by_dp_rank})
      for (const Partial partial : {Partial::none, Partial::tp, Partial::dp, Partial::world})
        for (const Rows to_rows : {Rows::replicated, Rows::by_dp_rank}) {
          const Layout from{from_rows, partial};
          const Layout to{to_rows, Partial::none};
          Transition transition;
          try {
            transition = collective_for(from, to, tp, dp);
          } catch (const InvalidArgument&) {
            EXPECT_TRUE(from_rows == Rows::by_dp_rank && dp > 1 &&
                        (partial == Partial::dp || partial == Partial::world));
            continue;
          }
          ++bridged;
          const auto results =
              spawn(Ranks::threads, tp * dp, [&, tp = tp, dp = dp](Bootstrap& bootstrap) -> std::string {
                Communicator communicator(bootstrap, {.tp = tp, .dp = dp});
                const Grid& grid = communicator.grid();
                const std::vector<std::size_t> counts = {3, 1, 2};
                const std::span<const std::size_t> rows(counts.data(), static_cast<std::size_t>(dp));
                const std::size_t all = RowCounts(rows).total(dp);
                const std::size_t first = RowCounts(rows).total(grid.dp.member);
                const std::size_t own = rows[static_cast<std::size_t>(grid.dp.member)];
                constexpr std::size_t hidden = 5;
                const auto view = [&](Rows r) {
                  return r == Rows::replicated ? std::pair{std::size_t{0}, all} : std::pair{first, own};
                };
                // The whole value of row r is r + 1; what a rank holds of it depends on the team that owes
                // the sum.
                const int team = partial == Partial::none ? 1
                                 : partial == Partial::tp ? tp
                                 : partial == Partial::dp ? dp
                                                          : tp * dp;
                const int member = partial == Partial::tp   ? grid.tp.member
                                   : partial == Partial::dp ? grid.dp.member
                                                            : grid.rank();
                const auto [in_first, in_rows] = view(from_rows);
                const auto [out_first, out_rows] = view(to_rows);
                std::vector<float> in(in_rows * hidden);
                std::vector<float> out(out_rows * hidden, -1.0F);
                for (std::size_t i = 0; i < in.size(); ++i) {
                  const auto whole = static_cast<float>(in_first + i / hidden + 1);
                  const auto share = static_cast<float>(member + 1);
                  in[i] = team == 1            ? whole
                          : member == team - 1 ? whole - share * (static_cast<float>(team) - 1) / 2
                                               : share;
                }
                run(communicator, transition, tensor(std::as_const(in).data(), in_rows, hidden),
                    tensor(out.data(), out_rows, hidden), rows);
                for (std::size_t i = 0; i < out.size(); ++i)
                  if (out[i] != static_cast<float>(out_first + i / hidden + 1))
                    return "row " + std::to_string(out_first + i / hidden) + " is " + std::to_string(out[i]);
                return "";
              });
          EXPECT_EQ(failures(results), "")
              << to_string(from) << " -> " << to_string(to) << " on " << tp << "x" << dp;
        }
  EXPECT_GT(bridged, 60);
}

}  // namespace
}  // namespace mixcomm::test
