// The decision layer: layouts, transitions, what modules declare, rows, costs. No communication.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <utility>

#include "environment.hpp"
#include "mixcomm/mixcomm.hpp"
#include "plan/search.hpp"
#include "verify/plan_cases.hpp"

namespace mixcomm::test {
namespace {

using enum TeamName;

std::string steps(const Layout& from, const Layout& to, const Parallelism& p,
                  const PlanOptions& options = {}) {
  const Transition transition = collective_for(from, to, p, options);
  check(transition, p);
  std::string text;
  for (const Step& step : transition.steps) text += (text.empty() ? "" : ", ") + std::string(name(step));
  return text.empty() ? "nothing" : text;
}

/// What an InvalidArgument (or Unsupported) says; "" if none is thrown.
template <class F>
std::string refusal(const F& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

constexpr Layout own{Rows::by_dp_rank};
constexpr Layout own_partial{Rows::by_dp_rank, attn_tp};
constexpr Layout all{Rows::replicated};
constexpr Layout all_partial{Rows::replicated, partial_over(moe_tp, moe_ep)};
constexpr Layout scattered{Rows::scattered};

TEST(Plan, BoundariesOfADecoderLayer) {
  EXPECT_EQ(steps(own_partial, all, {2, 4, 1, 8}), "all_reduce_all_gather");
  EXPECT_EQ(steps(all_partial, own, {2, 4, 1, 8}), "reduce_scatter_all_reduce");
  EXPECT_EQ(steps(own_partial, all, {4, 1, 1, 4}), "all_reduce");
  EXPECT_EQ(steps(all_partial, own, {4, 1, 2, 2}), "all_reduce");
  EXPECT_EQ(steps(own_partial, all, {1, 4, 1, 4}), "all_gather");
  EXPECT_EQ(steps(all_partial, own, {1, 4, 1, 4}), "reduce_scatter");
  EXPECT_EQ(steps(own_partial, all, {}), "nothing");
  EXPECT_EQ(steps(all_partial, own, {}), "nothing");
}

/// Nothing runs for a plan, so it may be for more ranks than a communicator holds.
TEST(Plan, GoesToManyRanks) {
  // 8 heads' TP, EP over all: 72 has many divisors, 320 is DeepSeek's, 2520 has the most below 4,096.
  for (const Parallelism& p : {Parallelism{8, 9, 1, 72},
                               {1, 320, 1, 320},
                               {4, 80, 1, 320},
                               {16, 256, 2, 2048},
                               {12, 210, 6, 420},
                               {4, 1024, 1, 4096}}) {
    EXPECT_EQ(steps(own_partial, all, p), p.attn_tp > 1 ? "all_reduce_all_gather" : "all_gather")
        << to_string(p);
    EXPECT_EQ(steps(all_partial, own, p), p.attn_tp > 1 ? "reduce_scatter_all_reduce" : "reduce_scatter")
        << to_string(p);
  }
  EXPECT_SAYS(refusal([&] {
                (void)collective_for(own, all, {64, 65, 64, 65});
              }),
              "plans are for at most 4096");
}

/// Every mapping of up to so many ranks, with an mlp_tp that meets the others at an angle where there is one.
std::vector<Parallelism> mappings(int most) {
  std::vector<Parallelism> found;
  for (int world = 1; world <= most; ++world)
    for (int attn = 1; attn <= world; ++attn)
      for (int moe = 1; moe <= world; ++moe)
        if (world % attn == 0 && world % moe == 0)
          for (const int mlp : {0, 1, 2, 3, world})
            if (mlp == 0 || world % mlp == 0) found.push_back({attn, world / attn, moe, world / moe, mlp});
  return found;
}

/// For many ranks the search looks at fewer teams. Where it can look at all, that makes no difference. With
/// MIXCOMM_LONG_TESTS set, on all mappings that a communicator holds.
TEST(Plan, FewerTeamsGiveTheSameWays) {
  const std::vector<Layout> layouts = {own,
                                       own_partial,
                                       all,
                                       all_partial,
                                       scattered,
                                       {Rows::replicated, moe_ep},
                                       {Rows::replicated, moe_tp},
                                       {Rows::replicated, attn_dp},
                                       {Rows::by_mlp_team, mlp_tp},
                                       {Rows::by_mlp_team},
                                       {Rows::replicated, complete, attn_tp},
                                       {Rows::replicated, complete, world}};
  int compared = 0;
  for (const Parallelism& p : mappings(std::getenv("MIXCOMM_LONG_TESTS") != nullptr ? max_ranks : 24))
    for (const Layout& from : layouts)
      for (const Layout& to : layouts) {
        if (!to.owed.empty() || !to.columns.empty() || !refusal([&] { (void)spread_of(from, p); }).empty())
          continue;
        const Transition one = collective_over(all_widths(p), from, to, p, {});
        const Transition two = collective_over(team_widths(p), from, to, p, {});
        ASSERT_EQ(one.cost.collectives, two.cost.collectives)
            << to_string(p) << to_string(from) << to_string(to);
        ASSERT_DOUBLE_EQ(one.cost.us, two.cost.us) << to_string(p) << to_string(from) << to_string(to);
        ++compared;
      }
  EXPECT_GT(compared, 10000);
}

TEST(Plan, ExpertsThatMeetAttentionInEveryWay) {
  // attn_dp = moe_ep > 1 and attn_tp = moe_tp > 1: the case that a reduce-scatter alone gets wrong.
  EXPECT_EQ(steps(all_partial, own, {2, 2, 2, 2}), "reduce_scatter_all_reduce");
  // Experts that summed over moe_tp themselves owe moe_ep's sum alone.
  const Layout over_ep{Rows::replicated, moe_ep};
  EXPECT_EQ(steps(over_ep, own, {2, 2, 2, 2}), "reduce_scatter");
  // Nested: the ranks that owe the sum are 2 apart, and have a communicator of their own.
  EXPECT_EQ(steps(over_ep, own, {4, 2, 2, 4}), "reduce_scatter_all_reduce");
  EXPECT_EQ(collective_for(over_ep, own, {4, 2, 2, 4}).steps[0].grid, (PlanGrid{2, 2, 2}));
  EXPECT_EQ(steps(over_ep, own, {2, 4, 4, 2}), "reduce_scatter, slice");
  EXPECT_EQ(steps(over_ep, all, {2, 4, 2, 4}), "all_reduce");
  // Crossing: neither of 2 and 3 divides the other.
  PlanOptions one_gpu;
  one_gpu.model.link = link_from_name("one-h200");
  EXPECT_EQ(steps(over_ep, own, {2, 3, 3, 2}, one_gpu), "keep_one, reduce_scatter_all_reduce");
  EXPECT_EQ(steps(over_ep, own, {2, 3, 3, 2}), "all_reduce, slice");  // of two ranks: one hop at any size
  const Layout over_tp{Rows::replicated, moe_tp};
  EXPECT_EQ(steps(over_tp, own, {2, 3, 3, 2}), "keep_one, reduce_scatter_all_reduce");
  EXPECT_EQ(steps(over_tp, own, {2, 2, 2, 2}), "slice, all_reduce");
}

TEST(Plan, DenseMlps) {
  const Layout mlp_out{Rows::by_mlp_team, mlp_tp};
  const Layout mlp_in{Rows::by_mlp_team};
  // Fully data-parallel: each rank has a part of its DP rank's rows.
  EXPECT_EQ(steps(own_partial, scattered, {4, 2, 1, 8, 1}), "reduce_scatter");
  EXPECT_EQ(steps(scattered, own, {4, 2, 1, 8, 1}), "all_gather");
  EXPECT_EQ(steps(own_partial, mlp_in, {4, 2, 1, 8, 4}), "all_reduce");
  EXPECT_EQ(steps(own_partial, mlp_in, {2, 4, 1, 8, 8}), "all_reduce_all_gather");
  EXPECT_EQ(steps(mlp_out, own, {2, 4, 1, 8, 8}), "reduce_scatter_all_reduce");
  // Two DP ranks share an MLP.
  EXPECT_EQ(steps(own_partial, mlp_in, {2, 4, 1, 8, 4}), "all_reduce_all_gather");
  EXPECT_EQ(steps(mlp_out, own, {2, 4, 1, 8, 4}), "reduce_scatter_all_reduce");
}

TEST(Plan, LogitsOfAShardedVocabulary) {
  EXPECT_EQ(steps({Rows::by_dp_rank, complete, attn_tp}, own, {2, 2, 1, 4}), "gather_columns");
  EXPECT_EQ(steps({Rows::replicated, complete, world}, all, {2, 2, 1, 4}), "gather_columns");
  EXPECT_EQ(steps({Rows::replicated, complete, world}, own, {2, 2, 1, 4}), "gather_columns, slice");
  EXPECT_EQ(steps(own, own, {2, 2, 1, 4}), "nothing");
}

TEST(Plan, WhatCannotBeIsRefused) {
  const Parallelism p{2, 2, 2, 2};
  EXPECT_SAYS(refusal([&] { (void)collective_for({Rows::by_dp_rank, world}, own, p); }), "different rows");
  EXPECT_SAYS(refusal([&] { (void)collective_for({Rows::by_dp_rank, moe_ep}, own, p); }), "different rows");
  EXPECT_SAYS(refusal([&] { (void)collective_for(own, own_partial, p); }), "cannot be made partial again");
  EXPECT_SAYS(refusal([&] {
                (void)collective_for({Rows::replicated, partial_over(attn_tp, moe_tp)}, own, p);
              }),
              "owe twice");
  EXPECT_SAYS(refusal([&] {
                (void)collective_for({Rows::replicated, partial_over(attn_tp, moe_ep)}, own, {2, 4, 4, 2});
              }),
              "belong to none of them");
  EXPECT_SAYS(refusal([&] { (void)collective_for(own, all, {0, 2, 1, 1}); }), "attn_tp is 0");
  EXPECT_SAYS(refusal([&] { (void)collective_for(own, all, {2, 2, 2, 1}); }), "must be the same ranks");
  EXPECT_SAYS(refusal([&] { (void)collective_for(own, all, {2, 2, 2, 2, 3}); }), "mlp_tp 3 does not divide");
  EXPECT_THROW((void)collective_for(own, all, {2, 2, 2, 2, 0, 2}), Unsupported);
  EXPECT_SAYS(refusal([&] { (void)collective_for(own, all, {2, 2, 2, 2, 0, 2}); }), "keys and values");
  // One DP rank: the rows are the same.
  EXPECT_EQ(steps({Rows::by_dp_rank, world}, own, {4, 1, 4, 1}), "all_reduce");
}

TEST(Plan, AStepThatDoesSomethingElseIsRefused) {
  const Parallelism p{2, 2, 2, 2};
  Transition transition = collective_for(all_partial, own, p);
  transition.steps[0].op = Op::reduce_scatter;
  EXPECT_NE(refusal([&] { check(transition, p); }), "");
  transition = collective_for(own_partial, all, p);
  transition.steps[0].op = Op::all_gather;
  EXPECT_NE(refusal([&] { check(transition, p); }), "");
  transition = collective_for(own_partial, own, p);
  transition.steps.push_back(transition.steps[0]);
  transition.steps[1].before = transition.steps[1].after;
  EXPECT_SAYS(refusal([&] { check(transition, p); }), "more than once");
}

/// Every pair of layouts on every mapping of up to 12 ranks: refused, or a plan whose steps check out.
TEST(Plan, EveryPairOfLayouts) {
  int bridged = 0;
  int refused = 0;
  for (int ranks = 1; ranks <= 12; ++ranks)
    for (int tp = 1; tp <= ranks; ++tp)
      for (int moe = 1; moe <= ranks; ++moe) {
        if (ranks % tp != 0 || ranks % moe != 0) continue;
        const Parallelism p{tp, ranks / tp, moe, ranks / moe, 1};
        for (const Rows from : {Rows::replicated, Rows::by_dp_rank, Rows::scattered})
          for (const Teams owed :
               {complete, Teams(attn_tp), Teams(attn_dp), Teams(moe_tp), Teams(moe_ep), Teams(world)})
            for (const Rows to : {Rows::replicated, Rows::by_dp_rank, Rows::scattered}) {
              Transition transition;
              try {
                transition = collective_for({from, owed}, {to}, p);
              } catch (const InvalidArgument&) {
                ++refused;
                // Rightly so: ranks that owe the sum have different rows.
                const int width = from == Rows::replicated ? ranks : from == Rows::by_dp_rank ? tp : 1;
                EXPECT_NE(width % span_of(owed, p).end, 0);
                continue;
              }
              ++bridged;
              check(transition, p);
              EXPECT_LE(transition.cost.collectives, 2) << to_string(transition.from) << " " << to_string(p);
              // In one node; several are for composed operations of which one stays inside.
              if (ranks <= 8) {
                EXPECT_LE(transition.cost.us, transition.two_calls.us);
              }
            }
      }
  EXPECT_GT(bridged, 2000);
  EXPECT_GT(refused, 500);
}

ModelModules one_layer(const Module& attention, const Module& mlp) {
  return {
      .embedding = modules::embedding(), .layers = {{attention, mlp}}, .head = modules::head(), .logits = {}};
}

TEST(LayerPlan, WhatModulesDeclare) {
  const Parallelism p{2, 2, 2, 2};
  const LayerPlan plan(one_layer(modules::attention(), modules::experts(SharedExpert{})), p);
  EXPECT_EQ(plan.before_attention(0).transition.steps.size(), 0U);
  // The residual goes with the sum, once; behind the experts every rank has it already.
  EXPECT_EQ(plan.before_mlp(0).addend("residual")->added, Added::by_one);
  EXPECT_EQ(plan.after_mlp(0).addend("residual")->added, Added::after);
  EXPECT_EQ(plan.after_mlp(0).addend("shared expert")->added, Added::by_all);
  int adding = 0;
  for (int rank = 0; rank < 4; ++rank)
    adding += plan.before_mlp(0).addend("residual")->before(own_partial, p, rank) ? 1 : 0;
  EXPECT_EQ(adding, 2);  // one in each DP rank
}

TEST(LayerPlan, AModuleThatReducedIsNotSummedAgain) {
  const Parallelism p{2, 2, 2, 2};
  Module attention = modules::attention();
  attention.gives.owed = complete;
  Module moe = modules::experts();
  moe.gives = {Rows::by_dp_rank};
  const LayerPlan plan(one_layer(attention, moe), p);
  EXPECT_EQ(name(plan.before_mlp(0).transition.steps.at(0)), "all_gather");
  EXPECT_TRUE(plan.after_mlp(0).transition.steps.empty());
  EXPECT_EQ(plan.before_mlp(0).addend("residual")->added, Added::by_all);
}

TEST(LayerPlan, DeclarationsThatWouldCountTwiceAreRefused) {
  const Parallelism p{2, 2, 2, 2};
  const auto says = [&](const Module& attention, const Module& mlp) {
    return refusal([&] { const LayerPlan plan(one_layer(attention, mlp), p); });
  };
  Module attention = modules::attention();
  attention.adds_residual = true;
  EXPECT_SAYS(says(attention, modules::experts()), "2 times");
  EXPECT_SAYS(says(modules::attention(), modules::experts(SharedExpert{{Rows::replicated, moe_tp}})),
              "count it 2 times");
  EXPECT_SAYS(says(modules::attention(), modules::experts(SharedExpert{{Rows::replicated}})),
              "count it 4 times");
  EXPECT_SAYS(says(modules::attention(), modules::experts(SharedExpert{{Rows::by_dp_rank, attn_tp}})),
              "other rows");
  Module moe = modules::experts(SharedExpert{{Rows::replicated, world}});
  moe.gives.owed = moe_ep;
  EXPECT_SAYS(says(modules::attention(), moe), "leave parts of it out");
  moe = modules::experts();
  moe.takes.owed = attn_tp;
  EXPECT_SAYS(says(modules::attention(), moe), "is complete");
  moe = modules::experts();
  moe.gives.rows = Rows::by_dp_rank;
  EXPECT_SAYS(says(modules::attention(), moe), "different rows");
}

TEST(LayerPlan, AnEditedBoundaryIsRefused) {
  const Parallelism p{2, 2, 2, 2};
  const LayerPlan plan(one_layer(modules::attention(), modules::experts(SharedExpert{})), p);
  Boundary boundary = plan.before_mlp(0);
  check(boundary, p);
  boundary.addends.back().added = Added::by_all;
  EXPECT_SAYS(refusal([&] { check(boundary, p); }), "2 times");
  boundary.addends.back().added = Added::within;
  EXPECT_SAYS(refusal([&] { check(boundary, p); }), "no epilogue adds it");
  boundary.finish = Finish{.residual = Rows::replicated, .adds = true};
  EXPECT_SAYS(refusal([&] { check(boundary, p); }), "its last step other rows");
}

/// In front of experts the residual stays in the DP rank's own rows, and so is there behind them.
TEST(LayerPlan, NormsRideInTheOperations) {
  const Parallelism p{2, 2, 2, 2};
  const LayerPlan plan(modules::with_norms(one_layer(modules::attention(), modules::experts(SharedExpert{})),
                                           {Quantize::per_128_columns}),
                       p);
  check(plan);
  const Boundary& first = plan.before_attention(0);
  ASSERT_TRUE(first.finish && !first.finish->within && first.finish->keeps && !first.finish->adds);
  for (const Boundary* each : {&plan.before_mlp(0), &plan.after_mlp(0)}) {
    ASSERT_TRUE(each->finish) << each->name;
    EXPECT_TRUE(each->finish->within && each->finish->adds);
    EXPECT_EQ(each->finish->residual, Rows::by_dp_rank);
    EXPECT_EQ(each->addend("residual")->added, Added::within);
    EXPECT_TRUE(each->addend("residual")->way.steps.empty());
    for (int rank = 0; rank < 4; ++rank)
      EXPECT_FALSE(each->addend("residual")->before(each->transition.from, p, rank));
  }
  EXPECT_EQ(plan.before_mlp(0).finish->quantize, Quantize::per_128_columns);
  EXPECT_EQ(plan.before_mlp(0).finish->separate_kernels(plan.before_mlp(0).transition), 3);
  EXPECT_TRUE(plan.before_mlp(0).finish->keeps);
  EXPECT_EQ(plan.after_mlp(0).finish->quantize, Quantize::none);
  EXPECT_EQ(plan.after_mlp(0).finish->separate_kernels(plan.after_mlp(0).transition), 1);
  EXPECT_FALSE(plan.after_mlp(0).finish->keeps);  // nothing follows but the head
  EXPECT_FALSE(plan.logits().finish);
}

TEST(LayerPlan, WhereANormCannotRideTheCallerNorms) {
  const Parallelism p{2, 2, 2, 2};
  // A shared expert that joins behind the collective is not in the sum that would be normed.
  const SharedExpert apart{{Rows::by_dp_rank, attn_tp}, Joined::apart};
  const LayerPlan plan(modules::with_norms(one_layer(modules::attention(), modules::experts(apart))), p);
  check(plan);
  EXPECT_TRUE(plan.before_mlp(0).finish);
  EXPECT_FALSE(plan.after_mlp(0).finish);
  EXPECT_EQ(plan.after_mlp(0).addend("residual")->added, Added::after);
  // A module that adds the residual itself needs it in the rows that it takes.
  Module moe = modules::experts();
  moe.gives.owed = complete;
  moe.adds_residual = true;
  const LayerPlan other(modules::with_norms(one_layer(modules::attention(), moe)), p);
  check(other);
  EXPECT_FALSE(other.before_mlp(0).finish);
  EXPECT_TRUE(other.after_mlp(0).finish && !other.after_mlp(0).finish->adds);
}

/// On every mapping, of experts and of dense MLPs, behind each other: where a boundary has an epilogue, its
/// residual is where the one before has kept it, or a part of that.
TEST(LayerPlan, ResidualsWithinAreWhereTheyWereKept) {
  int within = 0;
  for (int world = 1; world <= 8; ++world)
    for (const Parallelism& p : verify::mappings(world)) {
      ModelModules model = one_layer(modules::attention(), modules::experts());
      model.layers.push_back({modules::attention(), modules::dense_mlp(p)});
      model.layers.push_back(model.layers.front());
      const LayerPlan plan(modules::with_norms(model), p);
      check(plan);
      Rows held = plan.modules().layers.front().attention.takes.rows;
      for (const Boundary& each : plan.boundaries()) {
        if (const Addend* residual = each.addend("residual")) {
          EXPECT_EQ(residual->way.from.rows, held) << to_string(p) << ": " << each.name;
          EXPECT_TRUE(!each.finish || residual->way.cost.collectives == 0)
              << to_string(p) << ": " << each.name;
          EXPECT_EQ(residual->added == Added::within, each.finish.has_value());
          within += each.finish ? 1 : 0;
        }
        held = each.finish ? each.finish->residual : each.transition.to.rows;
      }
    }
  EXPECT_GT(within, 500);
}

TEST(Rows, ThePaddedWay) {
  const std::vector<std::size_t> even = {4, 3, 4, 4};
  const std::vector<std::size_t> wide = {9, 1, 1, 1};
  const std::vector<std::size_t> half = {2, 0};
  EXPECT_EQ(padded_way(even, Batch::decode), RowsWay::max_len);
  EXPECT_EQ(padded_way(wide, Batch::decode), RowsWay::sum_len);  // 2 * 12 < 9 * 4
  EXPECT_EQ(padded_way(half, Batch::decode), RowsWay::max_len);  // 2 * 2 >= 2 * 2
  EXPECT_EQ(padded_way(even, Batch::extend), RowsWay::sum_len);
}

TEST(Rows, RangesAndPads) {
  const Parallelism p{2, 2, 1, 4};
  const std::vector<std::size_t> rows = {3, 1};
  const RowPlan exact(rows, p);
  EXPECT_EQ(exact.range(4, 3), (RowRange{0, 4}));
  EXPECT_EQ(exact.range(2, 2), (RowRange{3, 1}));
  EXPECT_EQ(exact.range(1, 1), (RowRange{2, 1}));
  EXPECT_EQ(exact.range(1, 3), (RowRange{4, 0}));
  EXPECT_TRUE(exact.pads({0, 4}).empty());
  const RowPlan padded(rows, p, RowsWay::max_len);
  EXPECT_EQ(padded.total(), 6U);
  EXPECT_EQ(padded.counts(2, 2, 0), (std::vector<std::size_t>{3, 3}));
  EXPECT_EQ(padded.pads({0, 6}), (std::vector<RowRange>{{4, 2}}));
  EXPECT_EQ(padded.real({3, 3}), (std::vector<RowRange>{{3, 1}}));
  EXPECT_SAYS(refusal([&] { const RowPlan wrong(rows, {4, 1, 1, 4}); }), "2 row counts");
}

TEST(Cost, ConstantsNameTheirSourceAndAreUsed) {
  for (const LinkConstants& each : known_links()) {
    EXPECT_FALSE(each.source.empty()) << each.name;
    EXPECT_GT(each.gbps, 0) << each.name;
  }
  EXPECT_SAYS(refusal([] { (void)link_from_name("nvlink9"); }), "nvlink4");
  const CostModel model;
  const Operation large{Op::all_reduce_all_gather, 4, 2, std::size_t{64} << 20U};
  const Prediction p = predict(large, model);
  EXPECT_EQ(p.algorithm, Algorithm::two_shot);
  EXPECT_DOUBLE_EQ(p.bytes_per_rank, wire_bytes(large.op, 4, 2, large.bytes));
  EXPECT_DOUBLE_EQ(p.us,
                   model.link.call_us + 2 * model.link.wait_us + p.bytes_per_rank / (model.link.gbps * 1000));
  CostModel apart;
  apart.per_node = 4;
  EXPECT_GT(predict(large, apart).us, p.us);
  EXPECT_EQ(predict({Op::all_reduce, 1, 8, 4096}, model).us, 0);
  EXPECT_EQ(predict({Op::all_reduce, 8, 1, 0}, model).us, 0);
}

CostModel cpu_nodes(int per_node, int nics) {
  CostModel model;
  model.link = link_from_name("shm");
  model.network = {.name = "mine", .wait_us = 7, .gbps = 2, .source = "a ruler"};
  model.per_node = per_node;
  model.nics_per_node = nics;
  return model;
}

/// 8x4 on four nodes: each node's block once to three others, by eight ranks.
TEST(Cost, RowsLeaveANodeOnceForEachOther) {
  const Operation o{Op::all_reduce_all_gather, 8, 4, 4096};
  const CostModel one_nic = cpu_nodes(8, 1);
  const Prediction p = predict(o, one_nic);
  const AcrossNodes& across = p.across;
  EXPECT_EQ(across.nodes, 4);
  EXPECT_DOUBLE_EQ(across.bytes_per_node, 3 * 1024.0);
  EXPECT_DOUBLE_EQ(across.bytes_per_rank, 3 * 128.0);
  EXPECT_EQ(across.partial_bytes_per_node, 0);
  EXPECT_EQ(across.messages, 3);
  EXPECT_DOUBLE_EQ(across.us, 7 + 3 * 1024 / 2000.0);
  EXPECT_DOUBLE_EQ(across.before_us, predict({Op::all_reduce_all_gather, 8, 1, 1024}, one_nic).us);
  EXPECT_DOUBLE_EQ(across.after_us, 3 * predict({Op::all_gather, 1, 8, 1024}, one_nic).us);
  EXPECT_DOUBLE_EQ(p.us, across.before_us + across.us + across.after_us);
  EXPECT_EQ(across.not_yet, "");
  EXPECT_DOUBLE_EQ(predict(o, cpu_nodes(8, 8)).across.us, 7 + 3 * 128 / 2000.0);
  CostModel dear = one_nic;
  dear.network.call_us = 0.5;
  EXPECT_DOUBLE_EQ(predict(o, dear).across.us, across.us + 2 * 3 * 0.5);
  EXPECT_EQ(predict(o, cpu_nodes(32, 1)).across.nodes, 1);
  EXPECT_EQ(predict({Op::all_reduce, 8, 4, 4096}, one_nic).across.nodes, 1);  // each team is on one node
}

/// Ranks of one node that gather over DP alone have rows of their own each.
TEST(Cost, TeamsOfANodeShareItsNetwork) {
  const Prediction p = predict({Op::all_gather, 8, 2, 4096}, cpu_nodes(8, 1));
  EXPECT_DOUBLE_EQ(p.across.bytes_per_rank, 2048);
  EXPECT_DOUBLE_EQ(p.across.bytes_per_node, 8 * 2048.0);
  EXPECT_EQ(p.across.after_us, 0);
  // The same, as grids of ranks 8 apart.
  const Operation strided{
      .op = Op::all_gather, .tp = 1, .dp = 2, .bytes = 4096, .stride = 8, .world = 16, .dtype = DType::bf16};
  EXPECT_DOUBLE_EQ(predict(strided, cpu_nodes(8, 1)).across.bytes_per_node, 8 * 2048.0);
}

TEST(Cost, PartialSumsCrossOnceInFp32) {
  const Operation o{Op::reduce_scatter_all_reduce, 2, 4, 4096};
  const AcrossNodes across = predict(o, cpu_nodes(4, 1)).across;
  EXPECT_EQ(across.nodes, 2);
  EXPECT_DOUBLE_EQ(across.bytes_per_node, 2 * 2048.0);
  EXPECT_DOUBLE_EQ(across.partial_bytes_per_node, across.bytes_per_node);
  EXPECT_EQ(across.not_yet, "");
  Operation fp32 = o;
  fp32.dtype = DType::fp32;
  EXPECT_DOUBLE_EQ(predict(fp32, cpu_nodes(4, 1)).across.bytes_per_node, 2048);
}

/// A TP group on two nodes: each is at home half of the sum, of which the other one sends its part.
TEST(Cost, TpAcrossNodes) {
  const AcrossNodes sum = predict({Op::all_reduce, 4, 1, 4096}, cpu_nodes(2, 1)).across;
  EXPECT_DOUBLE_EQ(sum.partial_bytes_per_node, 2048 * 2.0);
  EXPECT_DOUBLE_EQ(sum.bytes_per_node, 2048 * 2.0 + 2048);
  EXPECT_EQ(sum.messages, 2);
  EXPECT_EQ(sum.not_yet, "a TP group on several nodes");
  CostModel gpus;
  gpus.per_node = 2;
  EXPECT_EQ(predict({Op::all_gather, 1, 4, 4096}, gpus).across.not_yet, "");
}

/// However ranks lie: what is sent is received, no node lacks rows, and all teams are looked at.
TEST(Cost, AnyNodesHaveWhatTheyNeed) {
  constexpr std::size_t bytes = 240 * 1024;
  for (const int tp : {1, 2, 3, 4})
    for (const int dp : {1, 2, 3, 5})
      for (int per_node = 1; per_node <= tp * dp; ++per_node)
        for (const Op op : {Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
                            Op::reduce_scatter_all_reduce}) {
          const Prediction p = predict({op, tp, dp, bytes}, cpu_nodes(per_node, 1));
          SCOPED_TRACE(fmt::format("{} {}x{}, {} per node", name(op), tp, dp, per_node));
          const bool apart = p.across.nodes > 1;
          EXPECT_EQ(p.across.bytes_per_node > 0, apart);
          EXPECT_GE(p.across.bytes_per_node * 1.0001, p.across.bytes_per_rank);
          EXPECT_GE(p.us, p.across.us);
          if (op != Op::all_reduce_all_gather || !apart) continue;
          // The node with the fewest rows of its own receives at the least the others.
          int fewest = dp;
          for (int first = 0; first < tp * dp; first += per_node)
            fewest = std::min(fewest, (std::min(first + per_node, tp * dp) - 1) / tp - first / tp + 1);
          EXPECT_GE(p.across.bytes_per_node, bytes * (1 - static_cast<double>(fewest) / dp) - 1);
        }
}

/// The variables are read when a communicator is made.
TEST(Environment, ChoosesAndSwitchesOff) {
  const auto algorithm_with = [](const char* variable, const char* value) {
    setenv(variable, value, 1);
    std::string found;
    try {
      run_threads(1, [&](Bootstrap& bootstrap) {
        const Communicator communicator(bootstrap, {});
        found = name(communicator.options().algorithm);
      });
    } catch (const InvalidArgument& error) {
      found = error.what();
    }
    unsetenv(variable);
    return found;
  };
  EXPECT_EQ(algorithm_with("MIXCOMM_ALGORITHM", "two_shot"), "two_shot");
  EXPECT_EQ(algorithm_with("MIXCOMM_DISABLE", "fusion"), "composed");
  EXPECT_EQ(algorithm_with("MIXCOMM_DISABLE", "multicast,fusion"), "composed");
  EXPECT_EQ(algorithm_with("MIXCOMM_DISABLE", ""), "auto");
  EXPECT_SAYS(algorithm_with("MIXCOMM_ALGORITHM", "fast"), "MIXCOMM_ALGORITHM");
  EXPECT_SAYS(algorithm_with("MIXCOMM_DISABLE", "noise"), "fusion, lines, multicast");
}

/// Multicast is off unless it is asked for, and who forbids it to one library on the machine means all.
TEST(Environment, ForbidsMulticastAndLines) {
  struct Allowed {
    bool multicast;
    bool lines;
    bool operator==(const Allowed&) const = default;
  };
  const auto allowed_with = [](const char* variable, const char* value) {
    if (variable != nullptr) setenv(variable, value, 1);
    CommunicatorOptions wanted;
    wanted.cuda.multicast = true;
    Allowed allowed{};
    run_threads(1, [&](Bootstrap& bootstrap) {
      const Communicator communicator(bootstrap, wanted);
      allowed = {communicator.options().cuda.multicast, communicator.options().cuda.lines};
    });
    if (variable != nullptr) unsetenv(variable);
    return allowed;
  };
  unsetenv("NCCL_NVLS_ENABLE");
  unsetenv("TORCH_SYMM_MEM_DISABLE_MULTICAST");
  EXPECT_EQ(allowed_with(nullptr, ""), (Allowed{.multicast = true, .lines = true}));
  EXPECT_EQ(allowed_with("NCCL_NVLS_ENABLE", "0"), (Allowed{.multicast = false, .lines = true}));
  EXPECT_EQ(allowed_with("NCCL_NVLS_ENABLE", "1"), (Allowed{.multicast = true, .lines = true}));
  EXPECT_EQ(allowed_with("NCCL_NVLS_ENABLE", "2"), (Allowed{.multicast = true, .lines = true}));
  EXPECT_EQ(allowed_with("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1"),
            (Allowed{.multicast = false, .lines = true}));
  EXPECT_EQ(allowed_with("TORCH_SYMM_MEM_DISABLE_MULTICAST", "0"),
            (Allowed{.multicast = true, .lines = true}));
  EXPECT_EQ(allowed_with("MIXCOMM_DISABLE", "multicast"), (Allowed{.multicast = false, .lines = true}));
  EXPECT_EQ(allowed_with("MIXCOMM_DISABLE", "lines"), (Allowed{.multicast = true, .lines = false}));
  EXPECT_FALSE(CommunicatorOptions{}.cuda.multicast);
}

}  // namespace
}  // namespace mixcomm::test
