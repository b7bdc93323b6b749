// Which collective belongs between two layouts.
#include <fmt/format.h>

#include <cstring>

#include "mixcomm/error.hpp"
#include "mixcomm/plan.hpp"

namespace mixcomm {
namespace {

std::string_view name(Rows rows) {
  return rows == Rows::replicated ? "replicated" : "by DP rank";
}

std::string_view name(Partial partial) {
  switch (partial) {
    case Partial::none:
      return "complete";
    case Partial::tp:
      return "partial over tp";
    case Partial::dp:
      return "partial over dp";
    case Partial::world:
      break;
  }
  return "partial over the world";
}

/// The team that really owes a sum: a team of one rank owes none.
Partial simplify(Partial partial, int tp, int dp) {
  const bool over_tp = (partial == Partial::tp || partial == Partial::world) && tp > 1;
  const bool over_dp = (partial == Partial::dp || partial == Partial::world) && dp > 1;
  if (over_tp && over_dp) return Partial::world;
  return over_tp ? Partial::tp : over_dp ? Partial::dp : Partial::none;
}

struct Row {
  Layout from;
  Rows to;
  std::vector<Transition::Step> steps;
  std::string_view why;
};

constexpr Transition::Step slice{true, {}};
constexpr Transition::Step step(Op op) {
  return {false, op};
}

/// Every bridge that there is, on a grid with tp > 1 and dp > 1; the result is always complete.
const std::vector<Row>& bridges() {
  using enum Op;
  static const std::vector<Row> rows = {
      {{Rows::by_dp_rank, Partial::none}, Rows::by_dp_rank, {}, "nothing is owed and no row moves"},
      {{Rows::replicated, Partial::none}, Rows::replicated, {}, "nothing is owed and no row moves"},
      {{Rows::replicated, Partial::none}, Rows::by_dp_rank, {slice}, "every rank holds its rows already"},
      {{Rows::by_dp_rank, Partial::none}, Rows::replicated, {step(all_gather)}, "only rows are missing"},
      {{Rows::by_dp_rank, Partial::tp},
       Rows::by_dp_rank,
       {step(all_reduce)},
       "the TP ranks of each DP rank owe a sum"},
      {{Rows::by_dp_rank, Partial::tp},
       Rows::replicated,
       {step(all_reduce_all_gather)},
       "the TP ranks of each DP rank owe a sum, and everyone needs all rows"},
      {{Rows::replicated, Partial::tp},
       Rows::by_dp_rank,
       {slice, step(all_reduce)},
       "each DP group holds its rows; its TP ranks owe a sum"},
      {{Rows::replicated, Partial::tp},
       Rows::replicated,
       {slice, step(all_reduce_all_gather)},
       "each group sums its own rows and hands them to all"},
      {{Rows::replicated, Partial::dp},
       Rows::by_dp_rank,
       {step(reduce_scatter)},
       "the DP ranks owe a sum of each row"},
      {{Rows::replicated, Partial::dp},
       Rows::replicated,
       {step(reduce_scatter), step(all_gather)},
       "the DP ranks owe a sum of each row, and everyone needs all rows"},
      {{Rows::replicated, Partial::world},
       Rows::by_dp_rank,
       {step(reduce_scatter_all_reduce)},
       "all ranks owe a sum of each row: a reduce-scatter over DP alone would leave out the TP ranks"},
      {{Rows::replicated, Partial::world},
       Rows::replicated,
       {step(reduce_scatter_all_reduce), step(all_gather)},
       "all ranks owe a sum of each row, and everyone needs all rows"},
  };
  return rows;
}

/// The same steps without the teams of one rank: a sum or a gather over them does nothing.
std::vector<Transition::Step> simplify(const std::vector<Transition::Step>& steps, int tp, int dp) {
  std::vector<Transition::Step> left;
  for (Transition::Step each : steps) {
    if (each.slice) {
      if (dp > 1) left.push_back(each);
      continue;
    }
    using enum Op;
    if (each.op == all_reduce_all_gather && (tp == 1 || dp == 1)) each.op = dp == 1 ? all_reduce : all_gather;
    if (each.op == reduce_scatter_all_reduce && (tp == 1 || dp == 1))
      each.op = dp == 1 ? all_reduce : reduce_scatter;
    const int ranks = each.op == all_reduce                                ? tp
                      : each.op == all_gather || each.op == reduce_scatter ? dp
                                                                           : tp * dp;
    if (ranks > 1) left.push_back(each);
  }
  return left;
}

Tensor own_rows(const Tensor& all, const RowCounts& rows, const Grid& grid) {
  const int d = grid.dp.member;
  const std::size_t skipped = rows.total(d) * all.hidden * size_of(all.dtype);
  return {all.data == nullptr ? nullptr : static_cast<std::byte*>(all.data) + skipped, rows[d], all.hidden,
          all.dtype};
}

void copy(const ConstTensor& from, const Tensor& to) {
  if (from.data != to.data && from.bytes() != 0) std::memmove(to.data, from.data, from.bytes());
}

/// What the operations check for themselves, for steps that are none.
void check(const Transition& transition, const ConstTensor& in, const Tensor& out, const RowCounts& rows,
           const Grid& grid) {
  if (!rows.is_uniform() && rows.given() != static_cast<std::size_t>(grid.dp.size))
    throw InvalidArgument(
        fmt::format("{} row counts were given for {} DP ranks; pass one count per DP rank, or one for all",
                    rows.given(), grid.dp.size));
  const auto check_tensor = [&](std::string_view which, const ConstTensor& tensor, Rows lie) {
    const std::size_t expected = lie == Rows::replicated ? rows.total(grid.dp.size) : rows[grid.dp.member];
    if (tensor.rows != expected)
      throw InvalidArgument(fmt::format("'{}' has {} rows, but with rows {} it has {}", which, tensor.rows,
                                        name(lie), expected));
    if (tensor.data == nullptr && tensor.elements() != 0)
      throw InvalidArgument(
          fmt::format("'{}' is null, but has {} x {} elements", which, tensor.rows, tensor.hidden));
  };
  check_tensor("in", in, transition.from.rows);
  check_tensor("out", out, transition.to.rows);
  if (in.dtype != out.dtype || in.hidden != out.hidden)
    throw InvalidArgument(
        fmt::format("'in' is {} with hidden {}, 'out' {} with hidden {}; both must be equal",
                    mixcomm::name(in.dtype), in.hidden, mixcomm::name(out.dtype), out.hidden));
}

}  // namespace

std::string to_string(const Layout& layout) {
  return fmt::format("rows {}, {}", name(layout.rows), name(layout.partial));
}

std::string_view name(const Transition::Step& step) {
  return step.slice ? "slice" : name(step.op);
}

Transition collective_for(const Layout& from, const Layout& to, int tp, int dp) {
  if (tp < 1 || dp < 1)
    throw InvalidArgument(
        fmt::format("a grid of tp {} x dp {} has no ranks; both must be at least 1", tp, dp));
  const Partial owed = simplify(from.partial, tp, dp);
  const auto refuse = [&](std::string_view why) {
    throw InvalidArgument(fmt::format("no collective leads from ({}) to ({}) on tp {} x dp {}: {}",
                                      to_string(from), to_string(to), tp, dp, why));
  };
  if (simplify(to.partial, tp, dp) != Partial::none) {
    if (simplify(to.partial, tp, dp) == owed && (from.rows == to.rows || dp == 1))
      return {from, to, {}, "the same sum stays owed"};
    refuse("a value cannot be made partial again; ask for a complete one");
  }
  const Layout start{dp == 1 ? Rows::replicated : from.rows, owed};
  const Rows end = dp == 1 ? Rows::replicated : to.rows;
  if (start.rows == Rows::by_dp_rank && (owed == Partial::dp || owed == Partial::world))
    refuse(
        "DP ranks hold different rows, so their values are no parts of one sum; check which team the module "
        "left partial");
  for (const Row& row : bridges())
    if (row.from == start && row.to == end)
      return {from, to, simplify(row.steps, tp, dp), std::string(row.why)};
  refuse("there is no such bridge");
  return {};
}

void run(Communicator& communicator, const Transition& transition, ConstTensor in, Tensor out, RowCounts rows,
         CallOptions options) {
  const Grid& grid = communicator.grid();
  check(transition, in, out, rows, grid);
  if (transition.steps.empty()) return copy(in, out);
  for (std::size_t i = 0; i < transition.steps.size(); ++i) {
    const Transition::Step& each = transition.steps[i];
    const bool last = i + 1 == transition.steps.size();
    if (each.slice) {
      // A view of the own rows, which the next step reads where they are.
      Tensor view{const_cast<void*>(in.data), in.rows, in.hidden, in.dtype};
      in = own_rows(view, rows, grid);
      if (last) copy(in, out);
      continue;
    }
    // Only a scatter comes before another step (a gather): it leaves the own rows where the gather wants
    // them.
    const Tensor to = last ? out : own_rows(out, rows, grid);
    communicator.run(each.op, in, to, rows, options);
    in = to;
  }
}

}  // namespace mixcomm
