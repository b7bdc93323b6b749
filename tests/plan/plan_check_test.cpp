// The planner's checker, that it can fail, and a LayerCommunicator on ranks. The whole of it is `mixcomm
// check --plan`.
#include <gtest/gtest.h>

#include <fmt/format.h>
#include <cstdio>
#include <cstdlib>

#include "mixcomm/mixcomm.hpp"
#include "plan/layer_plan_test_hook.hpp"
#include "support/spawn.hpp"
#include "verify/plan_cases.hpp"
#include "verify/plan_mutants.hpp"
#include "verify/plan_ranks.hpp"

namespace mixcomm::test {
namespace {

TEST(PlanCheck, SomeModelsOnEveryMappingOf16Ranks) {
  const auto report = verify::check_plans({.most_ranks = 16, .selection = {.every = 29}});
  EXPECT_EQ(report.failed, 0U) << report.first;
  EXPECT_GT(report.cases, 13'000U);
  EXPECT_GT(report.refused, 400U);
}

TEST(PlanCheck, OnRanks) {
  for (const int world : {1, 2, 4, 6}) {
    const auto results = spawn(Ranks::threads, world, [](Bootstrap& bootstrap) -> std::string {
      const auto report = verify::check_plans_on(bootstrap, {.every = 13, .boundaries_once = true});
      return report.failed == 0 && report.cases >= (bootstrap.world() == 1 ? 30U : 70U)
                 ? ""
                 : fmt::format("{} cases, {}", report.cases, report.first);
    });
    EXPECT_EQ(failures(results), "") << world << " ranks";
  }
}

/// Each seeded mistake is found in every model that it changes, and refused where a declaration expresses it.
/// With MIXCOMM_PRINT_MUTANTS, prints the table of docs/plan.md.
TEST(PlanCheck, EveryMutantIsCaught) {
  const bool prints = std::getenv("MIXCOMM_PRINT_MUTANTS") != nullptr;
  const auto mutants = verify::plan_mutants();
  EXPECT_GE(mutants.size(), 12U);
  for (const verify::PlanMutant& mutant : mutants) {
    verify::MutantResult sum;
    for (const int world : {4, 6, 8}) {
      const auto [applied, caught, refused, declared, declarations] = verify::try_mutant(mutant, world, 7);
      sum.applied += applied;
      sum.caught += caught;
      sum.refused += refused;
      sum.declared += declared;
      sum.declarations_refused += declarations;
    }
    EXPECT_GT(sum.applied, 0U) << mutant.name;
    EXPECT_EQ(sum.caught, sum.applied) << mutant.name;
    EXPECT_EQ(sum.declarations_refused, sum.declared) << mutant.name;
    if (mutant.declaration) {
      EXPECT_GT(sum.declared, 0U) << mutant.name;
    }
    if (prints)
      fmt::print("| {} | {} of {} | {} | {} |\n", mutant.name, sum.caught, sum.applied,
                 sum.refused == 0 ? "cannot see it" : fmt::format("{} of {}", sum.refused, sum.applied),
                 mutant.declaration ? fmt::format("{} of {} mappings", sum.declarations_refused, sum.declared)
                                    : "none says it");
  }
}

TEST(LayerCommunicator, RefusesWhatDoesNotFit) {
  const auto results = spawn(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    const Parallelism p{2, 2, 2, 2};
    const ModelModules model{.embedding = modules::embedding(),
                             .layers = {{modules::attention(), modules::experts()}},
                             .head = modules::head(),
                             .logits = {}};
    Communicators communicators(bootstrap, {});
    const auto refused = [](const auto& call) {
      try {
        call();
      } catch (const InvalidArgument&) {
        return 1;
      }
      return 0;
    };
    int count = 0;
    count += refused([&] {
      LayerPlan broken(model, p);
      LayerPlanTestHook::boundaries(broken)[1].transition.steps[0].op = Op::all_gather;
      const LayerCommunicator layers(broken, communicators, {.hidden = 4});
    });
    count +=
        refused([&] { const LayerCommunicator layers(LayerPlan(model, {}), communicators, {.hidden = 4}); });
    count +=
        refused([&] { const LayerCommunicator layers(LayerPlan(model, p), communicators, {.hidden = 0}); });
    LayerCommunicator layers(LayerPlan(model, p), communicators, {.hidden = 4, .dtype = DType::fp32});
    const std::vector<std::size_t> counts = {2, 1};
    const RowPlan rows = layers.rows(counts);
    const std::size_t own = layers.range(Rows::by_dp_rank, rows).count;
    std::vector<float> in(16, 1.0F);
    std::vector<float> out(16, 0.0F);
    const auto cross = [&](std::size_t in_rows, std::size_t out_rows, std::size_t hidden) {
      layers.cross(layers.before_mlp(0), tensor(in.data(), in_rows, 4), tensor(out.data(), out_rows, hidden),
                   rows);
    };
    count += refused([&] { cross(own + 1, 3, 4); });
    count += refused([&] { cross(own, 4, 4); });
    count += refused([&] { cross(own, 3, 5); });
    cross(own, 3, 4);  // still usable
    if (out[0] != 2.0F || out[11] != 2.0F || out[12] != 0.0F) return "wrong sums after refused calls";
    return count == 6 ? "" : fmt::format("{} of 6 were refused", count);
  });
  EXPECT_EQ(failures(results), "");
}

TEST(LayerCommunicator, OneCommunicatorIsEnoughForItsOwnGrid) {
  const auto results = spawn(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2, .dp = 2});
    Communicators only(communicator);
    const auto layers = [&](const Module& mlp) {
      return LayerCommunicator(LayerPlan({.embedding = modules::embedding(),
                                          .layers = {{modules::attention(), mlp}},
                                          .head = modules::head(),
                                          .logits = {}},
                                         {2, 2, 2, 2, 1}),
                               only, {.hidden = 4});
    };
    (void)layers(modules::experts());
    try {
      (void)layers(modules::dense_mlp({2, 2, 2, 2, 1}));  // scatters within attn_tp
      return "another grid was not missed";
    } catch (const Unsupported& error) {
      return std::string(error.what()).find("1x2") != std::string::npos ? "" : error.what();
    }
  });
  EXPECT_EQ(failures(results), "");
}

/// What the CPU can tell of counts in device memory: which boundaries can go by them, and what is refused
/// before anything is sent. tests/cuda/streams/layers_test.cpp runs them.
TEST(LayerCommunicator, CountsInDeviceMemory) {
  const auto results = spawn(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    const Parallelism p{.attn_tp = 2, .attn_dp = 2, .moe_tp = 2, .moe_ep = 2, .mlp_tp = 1};
    Communicators communicators(bootstrap, {});
    LayerCommunicator layers(LayerPlan({.embedding = modules::embedding(),
                                        .layers = {{modules::attention(), modules::experts()},
                                                   {modules::attention(), modules::dense_mlp(p)}},
                                        .head = modules::head(),
                                        .logits = {}},
                                       p),
                             communicators, {.hidden = 4, .dtype = DType::fp32});
    const auto said = [](const auto& call) -> std::string {
      try {
        call();
      } catch (const InvalidArgument& error) {
        return std::string("invalid: ") + error.what();
      } catch (const Unsupported& error) {
        return std::string("unsupported: ") + error.what();
      }
      return "nothing";
    };
    const auto has = [](const std::string& text, std::string_view part) {
      return text.find(part) != std::string::npos;
    };
    const std::int64_t counts[] = {1, 2};  // nobody reads them here
    std::vector<float> in(32);
    std::vector<float> out(32);
    const auto cross = [&](const Boundary& boundary, std::size_t in_rows, std::size_t out_rows) {
      return said([&] {
        layers.cross(boundary, tensor(in.data(), in_rows, 4), tensor(out.data(), out_rows, 4),
                     layers.rows_on_device(counts, 3));
      });
    };
    const std::string nowhere = said([&] { (void)layers.rows_on_device(nullptr, 3); });
    if (!has(nowhere, "invalid")) return "null counts: " + nowhere;
    const std::string none = said([&] { (void)layers.rows_on_device(counts, 0); });
    if (!has(none, "invalid")) return "0 rows: " + none;
    const std::string small = cross(layers.before_mlp(0), 2, 6);
    if (!has(small, "'in' has 2 rows, but this rank has 3")) return "in too small: " + small;
    const std::string large = cross(layers.before_mlp(0), 3, 7);
    if (!has(large, "'out' has 7 rows, but this rank has at most 6")) return "out too large: " + large;
    const std::string backend = cross(layers.before_mlp(0), 3, 5);
    if (!has(backend, "need backend cuda")) return "on the CPU: " + backend;
    const std::string back = cross(layers.after_mlp(0), 5, 3);
    if (!has(back, "need backend cuda")) return "back, on the CPU: " + back;
    const std::string scattered = cross(layers.before_mlp(1), 3, 3);
    if (!has(scattered, "needs row counts on the host")) return "scattered rows: " + scattered;
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
