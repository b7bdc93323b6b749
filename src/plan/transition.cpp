// What each operation does to a layout, and what it costs.
#include "mixcomm/transition.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "mixcomm/error.hpp"
#include "mixcomm/rows.hpp"

namespace mixcomm {
namespace {

constexpr Span normal(Span span) {
  return span.empty() ? Span{} : span;
}

/// A layout that an operation is applied to, and its teams.
struct Case {
  Spread now;
  Span tp;
  Span dp;
  Spread then;  ///< of local steps: what they are to give
};

StepOutcome broken(const char* rule) {
  return {{}, rule};
}

/// out = sum over tp.
StepOutcome all_reduce(const Case& c) {
  const Span owed = c.now.owed;
  if (!owed.holds(c.tp)) return broken("its team owes no sum, so it would count a value more than once");
  if (c.tp.begin != owed.begin && c.tp.end != owed.end) return broken("what would be left owed is no team");
  const Span left = c.tp.begin == owed.begin ? Span{c.tp.end, owed.end} : Span{owed.begin, c.tp.begin};
  return {{c.now.width, normal(left), {}}};
}

/// rows of dp's members, one after the other.
StepOutcome all_gather(const Case& c) {
  if (c.now.width != c.dp.begin) return broken("its members' rows are not those that follow each other");
  return {{c.dp.end, c.now.owed, c.now.columns}};
}

/// The sum over tp and dp (`summed`), each block where it belongs.
StepOutcome reduce_scatter(const Case& c, Span summed) {
  if (c.now.width != c.dp.end) return broken("its members do not have the rows that it scatters");
  if (!c.now.owed.holds(summed) || c.now.owed.end != summed.end)
    return broken(
        "its team owes no sum of these rows, so it would count a value more than once, or mix different "
        "rows");
  return {{c.dp.begin, normal({c.now.owed.begin, summed.begin}), {}}};
}

/// The sum over tp, of all of dp.
StepOutcome all_reduce_all_gather(const Case& c) {
  if (c.now.width != c.dp.begin) return broken("its members' rows are not those that follow each other");
  if (!c.now.owed.holds(c.tp) || c.now.owed.end != c.tp.end)
    return broken("its team owes no sum, so it would count a value more than once");
  return {{c.dp.end, normal({c.now.owed.begin, c.tp.begin}), {}}};
}

StepOutcome slice(const Case& c) {
  const int width = c.then.width;
  if (width < 1 || c.now.width % width != 0)
    return broken("a rank does not have all the rows that it would take");
  if (width % c.now.owed.end != 0 || width % c.now.columns.end != 0)
    return broken("ranks that owe a sum would be left with different rows");
  return {{width, c.now.owed, c.now.columns}};
}

StepOutcome keep_one(const Case& c) {
  if (!c.now.columns.empty()) return broken("columns are spread");
  if (!c.then.owed.holds(c.now.owed)) return broken("a sum that is owed would be forgotten");
  if (c.now.width % c.then.owed.end != 0) return broken("ranks of that team have different rows");
  return {{c.now.width, c.then.owed, {}}};
}

StepOutcome collective(Op op, const Case& c) {
  if (op == Op::all_gather) return all_gather(c);
  if (!c.now.columns.empty()) return broken("columns are spread");
  if (op == Op::all_reduce) return all_reduce(c);
  if (op == Op::reduce_scatter) return reduce_scatter(c, c.dp);
  if (op == Op::reduce_scatter_all_reduce) return reduce_scatter(c, {c.tp.begin, c.dp.end});
  return all_reduce_all_gather(c);
}

}  // namespace

std::string to_string(const PlanGrid& grid) {
  std::string text = fmt::format("{}x{}", grid.tp, grid.dp);
  if (grid.stride > 1) text += fmt::format(" of ranks {} apart", grid.stride);
  return text;
}

std::string_view name(const Step& step) {
  switch (step.kind) {
    case Step::Kind::slice:
      return "slice";
    case Step::Kind::keep_one:
      return "keep_one";
    case Step::Kind::gather_columns:
      return "gather_columns";
    case Step::Kind::collective:
      break;
  }
  return name(step.op);
}

StepOutcome outcome(const Step& step, int world) {
  const PlanGrid& g = step.grid;
  const Case c{
      step.before, {g.stride, g.stride * g.tp}, {g.stride * g.tp, g.stride * g.tp * g.dp}, step.after};
  if (step.kind == Step::Kind::slice) return slice(c);
  if (step.kind == Step::Kind::keep_one) return keep_one(c);
  if (g.stride < 1 || g.tp < 1 || g.dp < 1 || world % c.dp.end != 0) return broken("there are no such teams");
  if (step.kind == Step::Kind::collective) return collective(step.op, c);
  if (c.now.columns.empty() || c.dp != c.now.columns) return broken("its team has not the columns");
  return {{c.now.width, c.now.owed, {}}};
}

void check(const Transition& transition, const Parallelism& parallelism) {
  Spread now = spread_of(transition.from, parallelism);
  const Spread end = spread_of(transition.to, parallelism);
  const auto describe = [&] {
    return fmt::format("({}) to ({}) on {}", to_string(transition.from), to_string(transition.to),
                       to_string(parallelism));
  };
  for (const Step& step : transition.steps) {
    Step here = step;
    here.before = now;
    const auto [given, rule] = outcome(here, parallelism.world());
    if (rule != nullptr)
      throw InvalidArgument(fmt::format(
          "{}: {}{}: {}; at this step rows of {} neighbours are together, and {}", describe(), name(step),
          step.communicates() ? fmt::format(" on {}", to_string(step.grid)) : "", rule, now.width,
          now.owed.empty() ? "no sum is owed"
                           : fmt::format("{} owes a sum", name_of(now.owed, parallelism))));
    now = given;
    if (step.before != here.before || step.after != now)
      throw InvalidArgument(fmt::format("{}: {} does not give what it says", describe(), name(step)));
  }
  if (now.width != end.width)
    throw InvalidArgument(fmt::format("{}: the steps leave rows of {} neighbours together, not of {}",
                                      describe(), now.width, end.width));
  if (now.owed != end.owed)
    throw InvalidArgument(fmt::format("{}: the steps leave a sum over {} owed, not over {}", describe(),
                                      name_of(now.owed, parallelism), name_of(end.owed, parallelism)));
  if (now.columns != end.columns)
    throw InvalidArgument(fmt::format("{}: the steps leave other columns", describe()));
}

Operation operation_of(const Step& step, const Parallelism& parallelism, const PlanOptions& options) {
  std::vector<std::size_t> rows = options.traffic.rows;
  if (rows.empty()) rows.assign(static_cast<std::size_t>(parallelism.attn_dp), 16);
  const RowPlan plan(rows, parallelism);
  const PlanGrid& g = step.grid;
  const int width = std::max(step.before.width, step.after.width);
  std::size_t most = 0;
  for (int rank = 0; rank < parallelism.world(); rank += width)
    most = std::max(most, plan.range(width, rank).count);
  Operation operation{.op = step.op,
                      .tp = g.tp,
                      .dp = g.dp,
                      .bytes = most * options.traffic.row_bytes,
                      .stride = g.stride,
                      .world = parallelism.world(),
                      .dtype = options.traffic.dtype};
  if (step.kind == Step::Kind::gather_columns) operation.op = Op::all_gather;
  return operation;
}

Cost cost_of(const std::vector<Step>& steps, const Parallelism& parallelism, const PlanOptions& options) {
  Cost cost;
  for (const Step& step : steps) {
    if (!step.communicates()) {
      ++cost.local_steps;
      continue;
    }
    const Prediction p = predict(operation_of(step, parallelism, options), options.model);
    ++cost.collectives;
    cost.us += p.us;
    if (!p.across.whole_groups) ++cost.split_groups;
    cost.bytes_per_rank += p.bytes_per_rank;
  }
  return cost;
}

std::vector<Step> in_two_calls(const std::vector<Step>& steps) {
  std::vector<Step> all;
  for (const Step& step : steps) {
    const std::optional<TwoCalls> two = two_calls_of(step.op);
    if (step.kind != Step::Kind::collective || !two) {
      all.push_back(step);
      continue;
    }
    Step first = step;
    first.op = two->first;
    // A sum over the TP ranks on the way in; the block that each keeps on the way out.
    first.after =
        shape_of(step.op).body == Body::gather
            ? Spread{step.before.width, step.after.owed, {}}
            : Spread{step.after.width, {step.before.owed.begin, step.grid.stride * step.grid.tp}, {}};
    Step second = step;
    second.op = two->second;
    second.before = first.after;
    all.push_back(first);
    all.push_back(second);
  }
  return all;
}

}  // namespace mixcomm
