// From what modules declare to what happens between them.
#include "mixcomm/layer_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

bool is_local(const Transition& transition) {
  return transition.cost.collectives == 0;
}

[[noreturn]] void refuse(const Module& module, const Parallelism& parallelism, std::string_view why) {
  throw InvalidArgument(fmt::format("module '{}' on {}: {}", module.name, to_string(parallelism), why));
}

void check_module(const Module& module, const Parallelism& p) {
  try {
    const Spread takes = spread_of(module.takes, p);
    const Spread gives = spread_of(module.gives, p);
    if (!takes.owed.empty() || !takes.columns.empty())
      refuse(module, p,
             fmt::format("it takes ({}); what a module takes is complete, with all columns",
                         to_string(module.takes)));
    if (module.adds_residual && !gives.owed.empty())
      refuse(
          module, p,
          fmt::format(
              "it gives a sum that {} owes, and every rank's part of it holds the residual, so that the sum "
              "would hold it {} times; leave the residual to the layer, or add it on member 0 alone",
              name_of(gives.owed, p), gives.owed.size()));
  } catch (const InvalidArgument& error) {
    if (std::string_view(error.what()).starts_with("module")) throw;
    refuse(module, p, error.what());
  }
}

/// How a shared expert's output is joined, if it can be.
Addend shared_addend(const Module& module, const Layout& to, const Parallelism& p,
                     const TransitionFor& transition_for, const PlanOptions& options) {
  const SharedExpert& shared = *module.shared;
  const Spread routed = spread_of(module.gives, p);
  const Spread own = spread_of(shared.gives, p);
  if (!own.columns.empty())
    refuse(module, p, "its shared expert gives a part of the columns; sum over all of them");
  if (routed.width % own.width != 0 && own.width % routed.width != 0)
    refuse(module, p, "its shared expert gives rows that the routed experts' do not hold; use the same rows");
  if (shared.joined == Joined::apart)
    return {"shared expert", Added::after, transition_for(shared.gives, to, p, options)};
  if (own.width != routed.width)
    refuse(module, p,
           fmt::format(
               "its shared expert gives ({}), its routed experts ({}): other rows, which cannot be added "
               "up before the sum; declare it as joined apart",
               to_string(shared.gives), to_string(module.gives)));
  if (!routed.owed.holds(own.owed))
    refuse(module, p,
           fmt::format(
               "its shared expert still owes a sum over {}, but its routed experts over {} alone, so the "
               "sum would leave parts of it out; declare it as joined apart",
               name_of(own.owed, p), name_of(routed.owed, p)));
  if (shared.joined == Joined::on_every_rank && own.owed != routed.owed)
    refuse(module, p,
           fmt::format("its shared expert owes a sum over {}, its routed experts over {}, so adding it on "
                       "every rank would "
                       "count it {} times; slice it over the same ranks, or declare it as joined on one "
                       "member, or apart",
                       name_of(own.owed, p), name_of(routed.owed, p), routed.owed.size() / own.owed.size()));
  const Added added = own.owed == routed.owed ? Added::by_all : Added::by_one;
  return {"shared expert", added, transition_for(shared.gives, shared.gives, p, options)};
}

/// How the residual, of which every rank has complete `rows`, joins a module's output.
Addend residual_addend(Rows rows, const Transition& transition, const Parallelism& p,
                       const TransitionFor& transition_for, const PlanOptions& options) {
  const Layout residual{rows};
  Transition to_end = transition_for(residual, {transition.to.rows}, p, options);
  if (is_local(to_end)) return {"residual", Added::after, to_end};
  Transition to_start = transition_for(residual, {transition.from.rows}, p, options);
  if (!is_local(to_start)) return {"residual", Added::after, to_end};  // a collective of its own
  const bool owes = !spread_of(transition.from, p).owed.empty();
  return {"residual", owes ? Added::by_one : Added::by_all, to_start};
}

/// The width of the rows that the epilogue of a transition's last step has a residual of.
int width_at_end(const Transition& transition, const Parallelism& p) {
  if (transition.steps.empty() || transition.steps.back().kind != Step::Kind::collective)
    return spread_of({transition.to.rows}, p).width;
  const Step& last = transition.steps.back();
  return shape_of(last.op).body == Body::gather ? last.before.width : last.after.width;
}

/// Those rows, if they have a name.
std::optional<Rows> rows_at_end(const Transition& transition, const Parallelism& p) {
  const int width = width_at_end(transition, p);
  for (const Rows rows :
       {transition.to.rows, Rows::by_dp_rank, Rows::replicated, Rows::scattered, Rows::by_mlp_team})
    if (spread_of({rows}, p).width == width) return rows;
  return std::nullopt;
}

/// Where the residual is added, and where norms are done, one boundary after the other.
class Residuals {
 public:
  Residuals(const ModelModules& modules, const Parallelism& parallelism, const TransitionFor& transition_for,
            const PlanOptions& options)
      : parallelism_(parallelism), transition_for_(transition_for), options_(options) {
    modules_.push_back(&modules.embedding);
    for (const auto& [attention, mlp] : modules.layers) {
      modules_.push_back(&attention);
      modules_.push_back(&mlp);
    }
    modules_.push_back(&modules.head);
  }

  /// Of the boundaries behind each module but the head.
  void place(std::span<Boundary> boundaries) const {
    Rows held = modules_[1]->takes.rows;  // the embedding's output
    for (std::size_t i = 0; i < boundaries.size(); ++i) {
      Boundary& here = boundaries[i];
      here.finish = finish_at(boundaries, i, held);
      if (here.finish && i + 1 < boundaries.size()) {
        here.finish->keeps = true;
        if (!can_add(boundaries, i + 1, here.finish->residual)) here.finish.reset();
      }
      if (adds_behind(i))
        here.addends.push_back(
            here.finish ? Addend{"residual", Added::within, way(held, here.finish->residual)}
                        : residual_addend(held, here.transition, parallelism_, transition_for_, options_));
      held = here.finish ? here.finish->residual : modules_[i + 1]->takes.rows;
    }
  }

 private:
  /// Module i is the one in front of boundary i.
  [[nodiscard]] bool adds_behind(std::size_t i) const { return i > 0 && !modules_[i]->adds_residual; }
  [[nodiscard]] Transition way(Rows from, Rows to) const {
    return transition_for_({from}, {to}, parallelism_, options_);
  }

  [[nodiscard]] std::optional<Finish> finish_at(std::span<const Boundary> boundaries, std::size_t i,
                                                Rows held) const {
    const Module& module = *modules_[i];
    const std::optional<InputNorm>& norm = modules_[i + 1]->norm;
    if (!norm || (module.shared && module.shared->joined == Joined::apart)) return std::nullopt;
    const Transition& transition = boundaries[i].transition;
    const std::optional<Rows> rows = rows_at_end(transition, parallelism_);
    if (!rows || (adds_behind(i) && !is_local(way(held, *rows)))) return std::nullopt;
    return Finish{
        .residual = *rows,
        .adds = adds_behind(i),
        .quantize = norm->quantize,
        .within = !transition.steps.empty() && transition.steps.back().kind == Step::Kind::collective};
  }

  /// Whether boundary i can add a residual that lies so, without an operation for that alone.
  [[nodiscard]] bool can_add(std::span<const Boundary> boundaries, std::size_t i, Rows held) const {
    if (!adds_behind(i)) return held == modules_[i]->takes.rows;
    return finish_at(boundaries, i, held) ||
           is_local(
               residual_addend(held, boundaries[i].transition, parallelism_, transition_for_, options_).way);
  }

  std::vector<const Module*> modules_;
  const Parallelism& parallelism_;
  const TransitionFor& transition_for_;
  const PlanOptions& options_;
};

/// Asks for each transition once.
TransitionFor remembering(const TransitionFor& transition_for) {
  std::vector<Transition> known;
  return [=](const Layout& from, const Layout& to, const Parallelism& p, const PlanOptions& options) mutable {
    for (const Transition& each : known)
      if (each.from == from && each.to == to) return each;
    known.push_back(transition_for(from, to, p, options));
    return known.back();
  };
}

}  // namespace

std::string_view name(Added added) {
  switch (added) {
    case Added::by_one:
      return "before, by one rank of the team that owes the sum";
    case Added::by_all:
      return "before, by every rank";
    case Added::within:
      return "within the last operation, in its epilogue";
    case Added::after:
      break;
  }
  return "after";
}

int Finish::separate_kernels(const Transition& transition) const {
  const bool all_rows = within && transition.steps.back().op != Op::all_reduce &&
                        shape_of(transition.steps.back().op).body == Body::gather;
  return all_rows ? 1 + (adds ? 1 : 0) + (keeps ? 1 : 0) : 1;
}

bool Addend::before(const Layout& from, const Parallelism& parallelism, int rank) const {
  if (added == Added::after || added == Added::within) return false;
  if (added == Added::by_all) return true;
  return brings(span_of(way.to.owed, parallelism), span_of(from.owed, parallelism), rank);
}

const Addend* Boundary::addend(std::string_view wanted) const {
  const auto found = std::find_if(addends.begin(), addends.end(),
                                  [wanted](const Addend& each) { return each.name == wanted; });
  return found == addends.end() ? nullptr : &*found;
}

void check(const Boundary& boundary, const Parallelism& parallelism) {
  check(boundary.transition, parallelism);
  const Spread start = spread_of(boundary.transition.from, parallelism);
  const Spread end = spread_of(boundary.transition.to, parallelism);
  if (boundary.finish && spread_of({boundary.finish->residual}, parallelism).width !=
                             width_at_end(boundary.transition, parallelism))
    throw InvalidArgument(
        fmt::format("{} on {}: its epilogue has a residual with rows {}, but its last step other rows",
                    boundary.name, to_string(parallelism), name(boundary.finish->residual)));
  for (const Addend& each : boundary.addends) {
    check(each.way, parallelism);
    const Spread own = spread_of(each.way.to, parallelism);
    const auto refuse = [&](std::string_view why) {
      throw InvalidArgument(
          fmt::format("{} on {}: the {}: {}", boundary.name, to_string(parallelism), each.name, why));
    };
    if (each.added == Added::within) {
      if (!boundary.finish || !boundary.finish->adds) refuse("it is added within, but no epilogue adds it");
      if (own.width != width_at_end(boundary.transition, parallelism) || !own.owed.empty())
        refuse("it has other rows than those that the last operation sums, or owes a sum itself");
      continue;
    }
    if (own.width != (each.added == Added::after ? end : start).width)
      refuse("it has other rows than what it is added to");
    if (each.added == Added::after && own.owed != end.owed) refuse("it still owes a sum where it is added");
    if (each.added == Added::by_all && own.owed != start.owed)
      refuse(fmt::format("every rank adds it to a sum that {} owes, which would count it {} times",
                         name_of(start.owed, parallelism), start.owed.size() / own.owed.size()));
    if (each.added == Added::by_one && (start.owed.empty() || !start.owed.holds(own.owed)))
      refuse("one rank adds it, but nobody sums over the others");
  }
}

LayerPlan::LayerPlan(ModelModules modules, const Parallelism& parallelism, const PlanOptions& options,
                     const TransitionFor& transition_for)
    : modules_(std::move(modules)), parallelism_(parallelism) {
  mixcomm::check(parallelism_);
  const TransitionFor ask = remembering(transition_for);
  const auto boundary = [&](const Module& module, const Layout& to, const std::string& name) -> Boundary& {
    check_module(module, parallelism_);
    boundaries_.push_back(
        {fmt::format("{} -> {}", module.name, name), ask(module.gives, to, parallelism_, options), {}});
    return boundaries_.back();
  };
  /// What comes behind a module of a layer, which took `module.takes`, and so did the residual.
  const auto in_layer = [&](const Module& module, const Layout& to, const std::string& name) {
    Boundary& here = boundary(module, to, name);
    if (!module.gives.columns.empty())
      refuse(module, parallelism_, "it gives a part of the columns; only the head may");
    if (module.shared) here.addends.push_back(shared_addend(module, to, parallelism_, ask, options));
  };

  const std::size_t count = modules_.layers.size();
  const Module& first = count > 0 ? modules_.layers[0].attention : modules_.head;
  boundary(modules_.embedding, first.takes, first.name);
  for (std::size_t i = 0; i < count; ++i) {
    const auto& [attention, mlp] = modules_.layers[i];
    const Module& next = i + 1 < count ? modules_.layers[i + 1].attention : modules_.head;
    in_layer(attention, mlp.takes, mlp.name);
    in_layer(mlp, next.takes, i + 1 < count ? next.name : "final norm and " + next.name);
    stay_.push_back({fmt::format("input of {}", attention.name),
                     ask(attention.takes, attention.takes, parallelism_, options),
                     {}});
  }
  Residuals(modules_, parallelism_, ask, options).place(boundaries_);
  if (!modules_.logits.columns.empty() || !modules_.logits.owed.empty())
    throw InvalidArgument(fmt::format("logits are wanted as ({}); they must be complete, with all columns",
                                      to_string(modules_.logits)));
  boundary(modules_.head, modules_.logits, "logits");
}

void check(const LayerPlan& plan) {
  const auto once = [&](const Boundary& boundary, std::string_view name, bool wanted) {
    const auto count = std::count_if(boundary.addends.begin(), boundary.addends.end(),
                                     [name](const Addend& each) { return each.name == name; });
    if (count != (wanted ? 1 : 0))
      throw InvalidArgument(fmt::format("{} on {}: the {} is added {} times, not {}", boundary.name,
                                        to_string(plan.parallelism()), name, count, wanted ? 1 : 0));
  };
  for (const Boundary& each : plan.boundaries()) check(each, plan.parallelism());
  const auto& layers = plan.modules().layers;
  for (std::size_t i = 0; i < layers.size(); ++i)
    for (const auto& [module, boundary] : {std::pair(&layers[i].attention, &plan.before_mlp(i)),
                                           std::pair(&layers[i].mlp, &plan.after_mlp(i))}) {
      once(*boundary, "residual", !module->adds_residual);
      once(*boundary, "shared expert", module->shared.has_value());
    }
}

const Boundary& LayerPlan::before_attention(std::size_t layer) const {
  return layer == 0 ? boundaries_.at(0) : stay_.at(layer);
}
const Boundary& LayerPlan::before_mlp(std::size_t layer) const {
  return boundaries_.at(1 + 2 * layer);
}
const Boundary& LayerPlan::after_mlp(std::size_t layer) const {
  return boundaries_.at(2 + 2 * layer);
}
const Boundary& LayerPlan::logits() const {
  return boundaries_.back();
}

}  // namespace mixcomm
