// Wrong rules, seeded.
#include "verify/plan_mutants.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "mixcomm/error.hpp"
#include "src/plan/layer_plan_test_hook.hpp"

namespace mixcomm::verify {
namespace {

using enum TeamName;

/// Breaks the first step with that operation.
std::function<bool(Boundary&, const Parallelism&)> on_op(
    Op op, const std::function<bool(Transition&, Step&, const Parallelism&)>& edit) {
  return [=](Boundary& boundary, const Parallelism& p) {
    for (Step& step : boundary.transition.steps)
      if (step.kind == Step::Kind::collective && step.op == op) return edit(boundary.transition, step, p);
    return false;
  };
}

std::function<bool(Boundary&, const Parallelism&)> on_addend(
    const std::string& name, const std::function<bool(Boundary&, Addend&)>& edit) {
  return [=](Boundary& boundary, const Parallelism&) {
    for (Addend& each : boundary.addends)
      if (each.name == name) return edit(boundary, each);
    return false;
  };
}

/// Takes one operation for another, over the same rows.
auto replaced_by(Op op) {
  return [op](Transition&, Step& step, const Parallelism&) {
    step.op = op;
    return true;
  };
}

Step slice_to(const Step& step) {
  return {
      .kind = Step::Kind::slice, .before = step.before, .after = {step.after.width, step.before.owed, {}}};
}

ModelModules one_layer(const Module& attention, const Module& mlp) {
  return {
      .embedding = modules::embedding(), .layers = {{attention, mlp}}, .head = modules::head(), .logits = {}};
}

std::vector<PlanMutant> sums() {
  std::vector<PlanMutant> all;
  all.push_back({.name = "the sum over attn_tp left out, rows only gathered",
                 .edit = on_op(Op::all_reduce_all_gather, replaced_by(Op::all_gather)),
                 .declaration = [](const Parallelism& p) -> std::optional<ModelModules> {
                   if (p.attn_tp == 1) return std::nullopt;
                   Module moe = modules::experts();
                   moe.takes.owed = attn_tp;  // "the MoE may have it partial"
                   return one_layer(modules::attention(), moe);
                 }});
  all.push_back({.name = "the sum after the experts left out, own rows only taken",
                 .edit = on_op(Op::reduce_scatter_all_reduce,
                               [](Transition& transition, Step& step, const Parallelism&) {
                                 transition.steps = {slice_to(step)};
                                 return true;
                               })});
  all.push_back({.name = "an all-reduce left out",
                 .edit = on_op(Op::all_reduce, [](Transition& transition, Step& step, const Parallelism&) {
                   std::vector<Step>& steps = transition.steps;
                   steps.erase(steps.begin() + (&step - steps.data()));
                   return true;
                 })});
  all.push_back(
      {.name = "a reduce-scatter over attn_dp alone (attn_dp = moe_ep > 1 and attn_tp = moe_tp > 1)",
       .edit = on_op(Op::reduce_scatter_all_reduce,
                     [](Transition&, Step& step, const Parallelism& p) {
                       if (p.attn_dp != p.moe_ep || p.attn_tp != p.moe_tp) return false;
                       step.op = Op::reduce_scatter;
                       return true;
                     }),
       .declaration = [](const Parallelism& p) -> std::optional<ModelModules> {
         if (p.attn_dp != p.moe_ep || p.attn_tp != p.moe_tp || p.attn_tp == 1 || p.attn_dp == 1)
           return std::nullopt;
         Module moe = modules::experts();
         moe.gives = {Rows::by_dp_rank, moe_ep};  // "moe_ep is attn_dp, so it has been scattered"
         return one_layer(modules::attention(), moe);
       }});
  all.push_back({.name = "an all-reduce over attn_tp alone after the experts",
                 .edit = on_op(Op::reduce_scatter_all_reduce,
                               [](Transition& transition, Step& step, const Parallelism& p) {
                                 Step sum = step;
                                 sum.op = Op::all_reduce;
                                 sum.grid = {1, p.attn_tp, p.attn_dp};
                                 sum.before = slice_to(step).after;
                                 sum.after = step.after;
                                 transition.steps = {slice_to(step), sum};
                                 return true;
                               })});
  all.push_back({.name = "a sum made twice", .edit = [](Boundary& boundary, const Parallelism& p) {
                   std::vector<Step>& steps = boundary.transition.steps;
                   if (p.attn_tp == 1 || steps.empty() || boundary.addends.empty()) return false;
                   steps.push_back({.op = Op::all_reduce,
                                    .grid = {1, p.attn_tp, p.attn_dp},
                                    .before = steps.back().after,
                                    .after = steps.back().after});
                   return steps.back().after.width % p.attn_tp == 0;
                 }});
  all.push_back({.name = "a sum over the wrong team: moe_tp's in place of attn_tp's",
                 .edit = on_op(Op::all_reduce,
                               [](Transition&, Step& step, const Parallelism& p) {
                                 if (p.attn_tp == p.moe_tp || step.grid != PlanGrid{1, p.attn_tp, p.attn_dp})
                                   return false;
                                 // Where those ranks have the same rows at all.
                                 if (p.moe_tp == 1 || step.before.width % p.moe_tp != 0) return false;
                                 step.grid = {1, p.moe_tp, p.moe_ep};
                                 return true;
                               }),
                 .declaration = [](const Parallelism& p) -> std::optional<ModelModules> {
                   if (p.attn_tp % p.moe_tp == 0) return std::nullopt;
                   Module attention = modules::attention();
                   attention.gives.owed = moe_tp;
                   return one_layer(attention, modules::experts());
                 }});
  all.push_back(
      {.name = "rows scattered on the experts' grid in place of attention's",
       .edit = on_op(Op::reduce_scatter_all_reduce, [](Transition&, Step& step, const Parallelism& p) {
         if (p.attn_tp == p.moe_tp || step.grid != PlanGrid{1, p.attn_tp, p.attn_dp}) return false;
         step.grid = {1, p.moe_tp, p.moe_ep};
         return true;
       })});
  all.push_back({.name = "rows not gathered: the sum alone in front of the experts",
                 .edit = on_op(Op::all_reduce_all_gather, replaced_by(Op::all_reduce))});
  all.push_back({.name = "a value that several ranks have, summed over them (keep_one left out)",
                 .edit =
                     [](Boundary& boundary, const Parallelism&) {
                       return std::erase_if(boundary.transition.steps, [](const Step& step) {
                                return step.kind == Step::Kind::keep_one;
                              }) > 0;
                     },
                 .faults = {.nothing_kept = true}});
  return all;
}

std::vector<PlanMutant> addends() {
  std::vector<PlanMutant> all;
  all.push_back({.name = "the residual added on every TP rank",
                 .edit = on_addend("residual",
                                   [](Boundary& boundary, Addend& addend) {
                                     // Within, each rank adds it to a sum that is complete.
                                     const bool once = addend.added == Added::by_one ||
                                                       (addend.added == Added::within &&
                                                        !boundary.transition.from.owed.empty() &&
                                                        boundary.transition.from.rows == addend.way.to.rows);
                                     if (!once) return false;
                                     addend.added = Added::by_all;
                                     return true;
                                   }),
                 .declaration = [](const Parallelism& p) -> std::optional<ModelModules> {
                   if (p.attn_tp == 1) return std::nullopt;
                   Module attention = modules::attention();
                   attention.adds_residual = true;
                   return one_layer(attention, modules::experts());
                 }});
  all.push_back({.name = "the residual forgotten", .edit = [](Boundary& boundary, const Parallelism&) {
                   return std::erase_if(boundary.addends,
                                        [](const Addend& a) { return a.name == "residual"; }) > 0;
                 }});
  all.push_back({.name = "the residual added before and after",
                 .edit = on_addend("residual", [](Boundary& boundary, Addend& addend) {
                   const Addend again = addend;
                   boundary.addends.push_back(again);
                   return true;
                 })});
  all.push_back({.name = "the shared expert counted moe_ep times",
                 .edit = on_addend("shared expert",
                                   [](Boundary&, Addend& addend) {
                                     if (addend.added != Added::by_one) return false;
                                     addend.added = Added::by_all;
                                     return true;
                                   }),
                 .declaration = [](const Parallelism& p) -> std::optional<ModelModules> {
                   if (p.moe_ep == 1) return std::nullopt;
                   return one_layer(
                       modules::attention(),
                       modules::experts(SharedExpert{{Rows::replicated, moe_tp}, Joined::on_every_rank}));
                 }});
  all.push_back(
      {.name = "the shared expert's parts added on one rank alone",
       .edit =
           [](Boundary& boundary, const Parallelism& p) {
             for (Addend& each : boundary.addends) {
               if (each.name != "shared expert" || each.added != Added::by_all) continue;
               // Each rank's part is other than what the ranks have in common: as if it were complete.
               if (span_of(each.way.to.owed, p).empty()) continue;
               each.added = Added::by_one;
               each.way.to.owed = complete;
               return true;
             }
             return false;
           },
       .declaration = [](const Parallelism& p) -> std::optional<ModelModules> {
         if (p.attn_tp * p.moe_ep == 1 || p.moe_tp > 1) return std::nullopt;
         Module moe = modules::experts(SharedExpert{{Rows::replicated, world}, Joined::on_one_member});
         moe.gives.owed = moe_tp;  // the experts' sum is over fewer ranks than the shared one's
         return p.world() == 1 ? std::nullopt : std::optional(one_layer(modules::attention(), moe));
       }});
  all.push_back({.name = "the shared expert joined apart, its sum left out",
                 .edit = on_addend("shared expert", [](Boundary&, Addend& addend) {
                   if (addend.added != Added::after) return false;
                   for (Step& step : addend.way.steps) {
                     if (step.op == Op::reduce_scatter_all_reduce || step.op == Op::reduce_scatter) {
                       step = slice_to(step);
                       addend.way.steps.resize(static_cast<std::size_t>(&step - addend.way.steps.data()) + 1);
                       return true;
                     }
                     if (step.kind == Step::Kind::collective && step.op == Op::all_reduce) {
                       addend.way.steps.erase(addend.way.steps.begin() + (&step - addend.way.steps.data()));
                       return true;
                     }
                   }
                   return false;
                 })});
  return all;
}

std::vector<PlanMutant> carried_out_wrongly() {
  return {
      {.name = "rows scattered by the wrong counts: equally", .faults = {.equal_counts = true}},
      {.name = "the first rows taken, whoever's they are", .faults = {.first_rows = true}},
      {.name = "pad rows summed", .faults = {.pads_summed = true}},
      {.name = "vocabulary shards side by side in the wrong order", .faults = {.columns_reversed = true}}};
}

/// Whether carrying a plan out wrongly can make a difference to it.
bool concerns(const Faults& faults, const LayerPlan& plan) {
  const auto any = [&](const std::function<bool(const Step&)>& is) {
    for (const Boundary& boundary : plan.boundaries()) {
      for (const Addend& addend : boundary.addends)
        if (std::any_of(addend.way.steps.begin(), addend.way.steps.end(), is)) return true;
      if (std::any_of(boundary.transition.steps.begin(), boundary.transition.steps.end(), is)) return true;
    }
    return false;
  };
  const auto is_kind = [&](Step::Kind kind) {
    return any([=](const Step& step) { return step.kind == kind; });
  };
  const Parallelism& p = plan.parallelism();
  if (faults.equal_counts)
    return any([&](const Step& step) {
      return step.kind == Step::Kind::collective && step.grid == PlanGrid{1, p.attn_tp, p.attn_dp} &&
             p.attn_dp > 1 && (step.op == Op::reduce_scatter_all_reduce || step.op == Op::reduce_scatter);
    });
  if (faults.first_rows)
    return any([&](const Step& step) {
      return step.kind == Step::Kind::slice && step.before.width == p.world() &&
             step.after.width == p.attn_tp;
    });
  if (faults.pads_summed) return p.attn_dp > 1 && any([](const Step& step) { return step.communicates(); });
  if (faults.columns_reversed) return is_kind(Step::Kind::gather_columns);
  return false;
}

bool is_caught(const LayerPlan& plan, const Faults& faults) {
  const Parallelism& p = plan.parallelism();
  std::vector<int> ranks(static_cast<std::size_t>(p.world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  for (const Distribution& each : distributions(p.attn_dp))
    for (const RowsWay way : {RowsWay::exact, RowsWay::max_len}) {
      const ToyCase toy{plan, RowPlan(each.rows, p, way), 1};
      if (!run_toy(toy, ranks, symbolic_exchange(toy, faults)).wrong.empty()) return true;
    }
  return false;
}

bool is_refused(const LayerPlan& plan) {
  try {
    check(plan);
  } catch (const InvalidArgument&) {
    return true;
  }
  return false;
}

}  // namespace

std::vector<PlanMutant> plan_mutants() {
  std::vector<PlanMutant> all = sums();
  for (const auto& more : {addends(), carried_out_wrongly()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

PlanMutant plan_mutant(const std::string& name) {
  for (PlanMutant& each : plan_mutants())
    if (each.name == name) return each;
  throw InvalidArgument(fmt::format("no mutant is named '{}'", name));
}

MutantResult try_mutant(const PlanMutant& mutant, int world, int every) {
  MutantResult result;
  std::size_t index = 0;
  for (const Parallelism& p : mappings(world)) {
    if (mutant.declaration) {
      if (const auto declared = mutant.declaration(p)) {
        ++result.declared;
        try {
          const LayerPlan plan(*declared, p);
        } catch (const InvalidArgument&) {
          ++result.declarations_refused;
        }
      }
    }
    for (const Variant& variant : variants(p)) {
      if (index++ % static_cast<std::size_t>(every) != 0) continue;
      std::optional<LayerPlan> plan;
      try {
        plan.emplace(variant.modules, p);
      } catch (const InvalidArgument&) {
        continue;
      }
      // One boundary at a time, so that two mistakes do not make up for each other.
      bool applied = !mutant.edit && concerns(mutant.faults, *plan);
      if (mutant.edit)
        for (Boundary& each : LayerPlanTestHook::boundaries(*plan))
          if ((applied = mutant.edit(each, p))) break;
      if (!applied) continue;
      ++result.applied;
      result.caught += is_caught(*plan, mutant.edit ? Faults{} : mutant.faults) ? 1U : 0U;
      result.refused += is_refused(*plan) ? 1U : 0U;
    }
  }
  return result;
}

}  // namespace mixcomm::verify
