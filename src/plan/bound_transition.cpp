#include "plan/bound_transition.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace mixcomm {
namespace {

/// How a collective finds its counts in device memory, where one count per DP rank of the model lies; or why
/// it cannot.
std::string bind_device_rows(BoundStep& bound, const Step& step, const Parallelism& p, int rank) {
  const int own = rank / p.attn_tp;
  if (step.op == Op::all_reduce) {  // one block: the rows of this rank
    if (bound.before > p.attn_tp) {
      bound.device_rows = BoundStep::DeviceRows::padded;
      return "";
    }
    // The communicator looks for the count of its own DP rank.
    bound.first_count = own - bound.communicator->grid().dp.member;
    if (bound.before == p.attn_tp && bound.first_count >= 0) return "";
  } else if (bound.block_width == p.attn_tp) {
    bound.first_count = own / step.grid.dp * step.grid.dp;
    return "";
  }
  return fmt::format("{} on {} counts rows by {} ranks, and the counts are by {}", name(step.op),
                     to_string(step.grid), bound.block_width, p.attn_tp);
}

}  // namespace

RowCounts BoundStep::row_counts(const RowPlan& rows, int rank, std::size_t in_rows) {
  if (rows.device() != nullptr) {
    if (device_rows == DeviceRows::padded) return in_rows;
    return RowCounts::on_device(rows.device() + first_count, rows.given().front());
  }
  rows.counts(block_width, rank, counts);
  const bool equal = std::equal(counts.begin() + 1, counts.end(), counts.begin());
  return equal ? RowCounts(counts[0]) : RowCounts(counts);
}

BoundTransition bind(const Transition& transition, const Parallelism& parallelism,
                     Communicators& communicators) {
  const int rank = communicators.rank();
  BoundTransition bound;
  bound.from = spread_of({transition.from.rows}, parallelism).width;
  bound.to = spread_of({transition.to.rows}, parallelism).width;
  if (transition.to.columns != transition.from.columns)
    bound.slices = static_cast<std::size_t>(span_of(transition.from.columns, parallelism).size());
  const auto refuse = [&](std::string why) {
    if (bound.needs_host_counts.empty()) bound.needs_host_counts = std::move(why);
  };
  if (std::min(bound.from, bound.to) < parallelism.attn_tp)
    refuse(
        "the rows of a DP rank are scattered over its TP ranks, where each one's begin depends on the "
        "counts");
  for (const Step& step : transition.steps) {
    BoundStep& each = bound.steps.emplace_back();
    each.kind = step.kind;
    each.op = step.op;
    each.before = step.before.width;
    each.after = step.after.width;
    switch (step.kind) {
      case Step::Kind::slice:
        refuse("where a slice of the rows begins depends on the counts");
        break;
      case Step::Kind::keep_one:
        each.keeps = brings(step.before.owed, step.after.owed, rank);
        break;
      case Step::Kind::gather_columns:
        each.members = static_cast<std::size_t>(step.grid.dp);
        break;
      case Step::Kind::collective:
        each.block_width = step.grid.stride * step.grid.tp;
        each.counts.resize(static_cast<std::size_t>(step.grid.dp));
        break;
    }
    if (!step.communicates()) continue;
    bound.communicates = true;
    each.communicator = &communicators.on(step.grid);
    if (step.kind == Step::Kind::collective)
      if (std::string why = bind_device_rows(each, step, parallelism, rank); !why.empty())
        refuse(std::move(why));
  }
  return bound;
}

}  // namespace mixcomm
