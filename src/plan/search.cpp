// The shortest way from one layout to another.
#include "plan/search.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

bool shorter(const Cost& a, const Cost& b) {
  return std::tie(a.collectives, a.split_groups, a.us, a.local_steps) <
         std::tie(b.collectives, b.split_groups, b.us, b.local_steps);
}

struct Path {
  Spread end;
  std::vector<Step> steps;
  Cost cost;
  bool done = false;
};

/// A spread as a key.
using Place = std::array<int, 5>;

Place place_of(const Spread& spread) {
  return {spread.width, spread.owed.begin, spread.owed.end, spread.columns.begin, spread.columns.end};
}

/// What a step costs depends on it and on the rows that lie together around it.
using StepKey = std::tuple<Step::Kind, Op, int, int, int, int>;

StepKey key_of(const Step& step) {
  return {step.kind,    step.op,      step.grid.stride,
          step.grid.tp, step.grid.dp, std::max(step.before.width, step.after.width)};
}

class Search {
 public:
  Search(const std::vector<int>& widths, const Parallelism& parallelism, const PlanOptions& options)
      : parallelism_(parallelism), options_(options), divisors_(widths) {}

  std::vector<Step> shortest(const Spread& from, const Spread& to) {
    paths_ = {{from, {}, {}}};
    known_ = {{place_of(from), 0}};
    for (;;) {
      Path* next = nullptr;
      for (Path& each : paths_)
        if (!each.done && (next == nullptr || shorter(each.cost, next->cost))) next = &each;
      if (next == nullptr) throw InvalidArgument("no sequence of operations leads there");
      if (next->end == to) return next->steps;
      next->done = true;
      const Path here = *next;  // relaxing adds to paths_
      each_step(here);
    }
  }

 private:
  /// Every step that can be taken from a layout. Grids have stride 1 and all ranks where that is possible.
  void each_step(const Path& here) {
    const auto& [width, owed, columns] = here.end;
    if (!columns.empty())
      take(here, {.kind = Step::Kind::gather_columns,
                  .op = Op::all_gather,
                  .grid = {columns.begin, 1, columns.size()}});
    for (const int n : divisors_) {
      if (n < width) take(here, {.kind = Step::Kind::slice, .after = {n, owed, columns}});
      if (n > width) take(here, {.op = Op::all_gather, .grid = {1, width, n / width}});
      for (const int m : divisors_)
        if (m > n) take_sums(here, n, m);
    }
  }

  /// Takes the steps on teams Span{n, m}.
  void take_sums(const Path& here, int n, int m) {
    const auto& [width, owed, columns] = here.end;
    const Span span{n, m};
    if (span != owed) take(here, {.kind = Step::Kind::keep_one, .after = {width, span, columns}});
    if (owed.empty()) return;
    const int world = parallelism_.world();
    take(here, {.op = Op::all_reduce, .grid = {n, m / n, n == 1 ? world / m : 1}});
    if (m == width) {
      take(here, {.op = Op::reduce_scatter, .grid = {1, n, m / n}});
      for (const int more : divisors_) {
        if (more > m && n < m) take(here, {.op = Op::all_reduce_all_gather, .grid = {n, m / n, more / m}});
        if (more > n && more < m)
          take(here, {.op = Op::reduce_scatter_all_reduce, .grid = {n, more / n, m / more}});
      }
    }
  }

  void take(const Path& here, Step step) {
    step.before = here.end;
    const StepOutcome taken = outcome(step, parallelism_.world());
    const Spread& end = taken.after;
    if (taken.broken != nullptr) return;
    step.after = end;
    const Cost cost = here.cost + cost_of_one(step);
    const auto [known, is_new] = known_.try_emplace(place_of(end), paths_.size());
    if (is_new)
      paths_.push_back({end, with(here.steps, step), cost});
    else if (Path& path = paths_[known->second]; shorter(cost, path.cost))
      path = {end, with(here.steps, step), cost, path.done};
  }

  const Cost& cost_of_one(const Step& step) {
    const auto [known, is_new] = costs_.try_emplace(key_of(step));
    if (is_new) known->second = cost_of({step}, parallelism_, options_);
    return known->second;
  }

  static std::vector<Step> with(std::vector<Step> steps, const Step& step) {
    steps.push_back(step);
    return steps;
  }

  const Parallelism& parallelism_;
  const PlanOptions& options_;
  const std::vector<int>& divisors_;
  std::vector<Path> paths_;
  std::map<Place, std::size_t> known_;  // of paths_
  std::map<StepKey, Cost> costs_;
};

/// "the attn_tp ranks owe a sum, and ...".
std::string why(const std::vector<Step>& steps, const Parallelism& p) {
  if (steps.empty()) return "nothing is owed and no row moves";
  std::string text;
  for (const Step& step : steps) {
    const PlanGrid& g = step.grid;
    const std::string tp = name_of({g.stride, g.stride * g.tp}, p);
    const std::string dp = name_of({g.stride * g.tp, g.stride * g.tp * g.dp}, p);
    const std::string all = name_of(g.span(), p);
    const auto phrase = [&]() -> std::string {
      using enum Op;
      if (step.kind == Step::Kind::slice) return "every rank has the rows that it needs already";
      if (step.kind == Step::Kind::keep_one)
        return fmt::format("ranks that have the same value bring it into the sum once, which {} then owes",
                           name_of(step.after.owed, p));
      if (step.kind == Step::Kind::gather_columns)
        return fmt::format("each rank of {} has a slice of the columns", all);
      if (step.op == all_reduce)
        return fmt::format("the ranks of {} owe a sum, and keep the rows that they have", tp);
      if (step.op == all_gather) return fmt::format("rows of {} are missing, and nothing else", dp);
      if (step.op == reduce_scatter)
        return fmt::format("the ranks of {} owe a sum, of which each needs its own rows alone", dp);
      if (step.op == all_reduce_all_gather)
        return fmt::format("the ranks of {} owe a sum, and all of {} need its rows", tp, all);
      return fmt::format(
          "the ranks of {} owe a sum, of which each needs its own rows alone: a reduce-scatter over {} would "
          "leave out {}",
          all, dp, tp);
    };
    text += (text.empty() ? "" : "; then ") + phrase();
  }
  return text;
}

}  // namespace

std::vector<int> all_widths(const Parallelism& parallelism) {
  std::vector<int> widths;
  for (int n = 1; n <= parallelism.world(); ++n)
    if (parallelism.world() % n == 0) widths.push_back(n);
  return widths;
}

std::vector<int> team_widths(const Parallelism& p) {
  std::set<int> widths{1, p.attn_tp, p.moe_tp, p.dense_tp(), p.world()};
  for (std::size_t before = 0; before != widths.size();) {
    before = widths.size();
    const std::vector<int> now(widths.begin(), widths.end());
    for (const int a : now)
      for (const int b : now) widths.insert({std::gcd(a, b), std::lcm(a, b)});
  }
  return {widths.begin(), widths.end()};
}

Transition collective_for(const Layout& from, const Layout& to, const Parallelism& parallelism,
                          const PlanOptions& options) {
  check(parallelism);
  const bool few = parallelism.world() <= max_ranks;
  return collective_over(few ? all_widths(parallelism) : team_widths(parallelism), from, to, parallelism,
                         options);
}

Transition collective_over(const std::vector<int>& widths, const Layout& from, const Layout& to,
                           const Parallelism& parallelism, const PlanOptions& options) {
  const Spread start = spread_of(from, parallelism);
  const Spread end = spread_of(to, parallelism);
  const auto refuse = [&](std::string_view reason) {
    throw InvalidArgument(fmt::format("no collective leads from ({}) to ({}) on {}: {}", to_string(from),
                                      to_string(to), to_string(parallelism), reason));
  };
  if (!end.owed.empty() && end.owed != start.owed)
    refuse("a value cannot be made partial again; ask for a complete one");
  if (!end.columns.empty() && end.columns != start.columns)
    refuse("columns cannot be spread again; ask for all of them");
  Transition transition{from, to, Search(widths, parallelism, options).shortest(start, end), {}, {}, {}};
  transition.cost = cost_of(transition.steps, parallelism, options);
  transition.two_calls = cost_of(in_two_calls(transition.steps), parallelism, options);
  transition.why = why(transition.steps, parallelism);
  return transition;
}

}  // namespace mixcomm
