// What the planner is checked on.
#include "verify/plan_cases.hpp"

#include <fmt/format.h>

#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "mixcomm/error.hpp"
#include "verify/symbolic.hpp"

namespace mixcomm::verify {
namespace {

using enum TeamName;

std::vector<Module> attentions() {
  Module reduced = modules::attention("attention that reduces");
  reduced.gives.owed = complete;
  Module with_residual = reduced;
  with_residual.name = "attention that reduces and adds the residual";
  with_residual.adds_residual = true;
  return {modules::attention(), reduced, with_residual};
}

std::vector<std::optional<SharedExpert>> shared_experts() {
  const auto replicated = [](Teams owed, Joined joined) {
    return SharedExpert{{Rows::replicated, owed}, joined};
  };
  const auto own = [](Teams owed) { return SharedExpert{{Rows::by_dp_rank, owed}, Joined::apart}; };
  return {std::nullopt,
          replicated(world, Joined::on_every_rank),
          replicated(moe_tp, Joined::on_one_member),
          replicated(complete, Joined::on_one_member),
          replicated(moe_tp, Joined::on_every_rank),  // refused where moe_ep > 1
          replicated(world, Joined::apart),
          own(attn_tp),
          own(complete)};
}

std::vector<Module> mlps(const Parallelism& p) {
  std::vector<Module> all;
  for (const Layout& gives :
       {Layout{Rows::replicated, partial_over(moe_tp, moe_ep)}, Layout{Rows::replicated, moe_ep},
        Layout{Rows::replicated, moe_tp}, Layout{Rows::replicated, complete},
        Layout{Rows::by_dp_rank, complete}, Layout{Rows::by_dp_rank, attn_tp}})
    for (const auto& shared : shared_experts()) {
      Module moe = modules::experts(shared);
      moe.name = fmt::format("MoE that gives {}", to_string(gives));
      if (shared)
        moe.name += fmt::format(", shared expert {} {}", to_string(shared->gives),
                                shared->joined == Joined::apart           ? "apart"
                                : shared->joined == Joined::on_one_member ? "on one member"
                                                                          : "on every rank");
      moe.gives = gives;
      all.push_back(moe);
    }
  all.push_back(modules::dense_mlp(p));
  Module reduced = modules::dense_mlp(p);
  reduced.name = "dense MLP that reduces";
  reduced.gives.owed = complete;
  all.push_back(reduced);
  return all;
}

struct End {
  Module head;
  Layout logits;
};

std::vector<End> ends() {
  const Layout own{Rows::by_dp_rank};
  const Layout all{Rows::replicated};
  return {{modules::head(), own},
          {modules::sharded_head(), own},
          {modules::world_head(), own},
          {modules::world_head(), all},
          {modules::head(), all}};
}

std::string in_numbers(const Transition& transition, const Parallelism& p) {
  std::string text;
  for (const Layout& each : {transition.from, transition.to}) {
    const auto [width, owed, columns] = spread_of(each, p);
    text += fmt::format(" {} {}-{} {}-{};", width, owed.begin, owed.end, columns.begin, columns.end);
  }
  return text;
}

/// Equal for boundaries at which the same happens, whatever the teams are called.
std::string what_happens(const Boundary& boundary, const Parallelism& p) {
  std::string text = in_numbers(boundary.transition, p);
  for (const Addend& each : boundary.addends)
    text += fmt::format("{} {}{}", each.name, name(each.added), in_numbers(each.way, p));
  return text;
}

}  // namespace

std::vector<Parallelism> mappings(int ranks) {
  std::vector<Parallelism> all;
  for (int tp = 1; tp <= ranks; ++tp)
    for (int moe = 1; moe <= ranks; ++moe)
      for (int mlp = 1; mlp <= ranks; ++mlp)
        if (ranks % tp == 0 && ranks % moe == 0 && ranks % mlp == 0)
          all.push_back({tp, ranks / tp, moe, ranks / moe, mlp});
  return all;
}

std::vector<Distribution> distributions(int dp) {
  std::vector<Distribution> all = {{"equal", {}}, {"uneven", {}}, {"some empty", {}}, {"one rank only", {}}};
  for (int d = 0; d < dp; ++d) {
    all[0].rows.push_back(2);
    all[1].rows.push_back(static_cast<std::size_t>(1 + (d * 2 + 2) % 5 % 4));
    all[2].rows.push_back(d % 2 == 0 ? 0 : static_cast<std::size_t>(d % 3 + 1));
    all[3].rows.push_back(d == dp / 2 ? 3 : 0);
  }
  return all;
}

std::vector<Variant> variants(const Parallelism& p) {
  std::vector<Variant> all;
  const auto mixers = attentions();
  const auto mlp = mlps(p);
  const auto end = ends();
  // Of mappings that differ in mlp_tp alone, one runs what has nothing to do with it.
  const std::size_t first = p.dense_tp() == p.attn_tp ? 0 : mlp.size() - 2;
  for (std::size_t a = 0; a < mixers.size(); ++a)
    for (std::size_t m = first; m < mlp.size(); ++m)
      for (std::size_t e = 0; e < end.size(); ++e) {
        if (a != (e + m) % mixers.size()) continue;  // a head has to do with the last MLP alone
        // The other MLP comes second, so that each one is in front of an attention, and in front of each
        // head.
        const Module& other = mlp[mlp.size() - 2];
        const bool last = e % 2 == 0;
        all.push_back({fmt::format("{}, {}, {} -> {}", mixers[a].name, mlp[m].name, end[e].head.name,
                                   to_string(end[e].logits)),
                       {.embedding = m % 2 == 0 ? modules::embedding() : modules::sharded_embedding(),
                        .layers = {{mixers[a], last ? other : mlp[m]}, {mixers[a], last ? mlp[m] : other}},
                        .head = end[e].head,
                        .logits = end[e].logits}});
      }
  return all;
}

void check_mapping(const Parallelism& parallelism, const Selection& selection, const RunCase& run,
                   PlanCheckReport& report) {
  const auto every = static_cast<std::size_t>(selection.every);
  std::set<std::string> seen;
  const std::size_t offset = report.mappings++;
  const auto all = variants(parallelism);
  const auto rows = distributions(parallelism.attn_dp);
  const auto fail = [&](const std::string& what) {
    ++report.failed;
    if (report.first.empty()) report.first = what;
  };
  // Of each declaration: what collective_for said once.
  std::vector<Transition> known;
  const TransitionFor remembered = [&](const Layout& from, const Layout& to, const Parallelism& p,
                                       const PlanOptions& options) {
    for (const Transition& each : known)
      if (each.from == from && each.to == to) return each;
    known.push_back(collective_for(from, to, p, options));
    return known.back();
  };
  for (std::size_t v = offset % every; v < all.size(); v += every) {
    std::optional<LayerPlan> plan;
    try {
      plan.emplace(all[v].modules, parallelism, PlanOptions{}, remembered);
    } catch (const InvalidArgument&) {
      ++report.refused;
      continue;
    }
    if (selection.boundaries_once) {
      const std::size_t before = seen.size();
      for (const Boundary& each : plan->boundaries()) seen.insert(what_happens(each, parallelism));
      if (seen.size() == before) continue;
    }
    ++report.models;
    for (std::size_t d = 0; d < rows.size(); ++d)
      for (const RowsWay way : {RowsWay::exact, RowsWay::max_len, RowsWay::sum_len}) {
        if (d == 0 && way != RowsWay::exact) continue;  // equal counts have no pad rows
        ToyCase toy{*plan, RowPlan(rows[d].rows, parallelism, way), report.cases + 1};
        ++report.cases;
        const ToyResult result = run(toy);
        report.boundaries += result.boundaries;
        if (!result.wrong.empty())
          fail(fmt::format("{}, {}, rows {}, {}: {}", to_string(parallelism), all[v].name, rows[d].name,
                           name(way), result.wrong));
      }
  }
}

PlanCheckReport check_plans(const PlanCheckOptions& options, const std::function<void(int world)>& progress) {
  PlanCheckReport report;
  for (int world = 1; world <= options.most_ranks; ++world) {
    std::vector<int> ranks(static_cast<std::size_t>(world));
    std::iota(ranks.begin(), ranks.end(), 0);
    for (const Parallelism& each : mappings(world))
      check_mapping(
          each, options.selection,
          [&](const ToyCase& toy) { return run_toy(toy, ranks, symbolic_exchange(toy)); }, report);
    if (progress) progress(world);
  }
  return report;
}

}  // namespace mixcomm::verify
