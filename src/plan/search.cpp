// The shortest way from one layout to another.
#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "mixcomm/error.hpp"
#include "mixcomm/transition.hpp"

namespace mixcomm {
namespace {

bool shorter(const Cost& a, const Cost& b) {
  return std::tie(a.collectives, a.us, a.local_steps) < std::tie(b.collectives, b.us, b.local_steps);
}

struct Path {
  Spread end;
  std::vector<Step> steps;
  Cost cost;
  bool done = false;
};

class Search {
 public:
  Search(const Parallelism& parallelism, const PlanOptions& options)
      : parallelism_(parallelism), options_(options) {
    for (int n = 1; n <= parallelism.world(); ++n)
      if (parallelism.world() % n == 0) divisors_.push_back(n);
  }

  std::vector<Step> shortest(const Spread& from, const Spread& to) {
    paths_ = {{from, {}, {}}};
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

  /// Those that have to do with the teams n .. m.
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
    const Cost cost = here.cost + cost_of({step}, parallelism_, options_);
    const auto known =
        std::find_if(paths_.begin(), paths_.end(), [&](const Path& p) { return p.end == end; });
    if (known == paths_.end())
      paths_.push_back({end, with(here.steps, step), cost});
    else if (shorter(cost, known->cost))
      *known = {end, with(here.steps, step), cost, known->done};
  }

  static std::vector<Step> with(std::vector<Step> steps, const Step& step) {
    steps.push_back(step);
    return steps;
  }

  const Parallelism& parallelism_;
  const PlanOptions& options_;
  std::vector<int> divisors_;
  std::vector<Path> paths_;
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

Transition collective_for(const Layout& from, const Layout& to, const Parallelism& parallelism,
                          const PlanOptions& options) {
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
  Transition transition{from, to, Search(parallelism, options).shortest(start, end), {}, {}, {}};
  transition.cost = cost_of(transition.steps, parallelism, options);
  transition.two_calls = cost_of(in_two_calls(transition.steps), parallelism, options);
  transition.why = why(transition.steps, parallelism);
  return transition;
}

}  // namespace mixcomm
