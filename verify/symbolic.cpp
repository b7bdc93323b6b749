// Transitions on all ranks at once, in integers.
#include "verify/symbolic.hpp"

#include <fmt/format.h>

#include <numeric>

namespace mixcomm::verify {
namespace {

/// The ranks of one operation, spelled out.
struct Members {
  int first;  ///< of the grid that a rank belongs to
  PlanGrid grid;

  Members(const PlanGrid& g, int rank) : grid(g) {
    const int size = g.tp * g.dp;
    first = rank - rank / g.stride % size * g.stride;
  }
  [[nodiscard]] std::size_t at(int t, int d) const {
    return static_cast<std::size_t>(first + (d * grid.tp + t) * grid.stride);
  }
  [[nodiscard]] int member(int rank) const { return (rank - first) / grid.stride; }
};

class Symbolic {
 public:
  Symbolic(const RowPlan& rows, const Faults& faults, std::vector<Rectangle>& held)
      : rows_(rows), faults_(faults), held_(held) {}

  std::string run(const std::vector<Step>& steps) {
    bool sends = false;
    for (const Step& step : steps) sends = sends || step.communicates();
    if (sends && !faults_.pads_summed) clear_pads(steps.front().before.width);
    for (const Step& step : steps) {
      std::vector<Rectangle> next(held_.size());
      for (std::size_t r = 0; r < held_.size(); ++r) {
        next[r] = of_rank(step, static_cast<int>(r));
        if (!wrong_.empty()) return wrong_;
      }
      held_ = std::move(next);
    }
    return "";
  }

 private:
  void clear_pads(int width) {
    for (std::size_t r = 0; r < held_.size(); ++r) {
      const RowRange own = rows_.range(width, static_cast<int>(r));
      for (const RowRange& pad : rows_.pads(own))
        for (std::size_t i = pad.first; i < pad.first + pad.count; ++i)
          for (std::size_t j = 0; j < held_[r].cols; ++j) held_[r].row(i - own.first)[j] = 0;
    }
  }

  Rectangle of_rank(const Step& step, int rank) {
    const Rectangle& mine = held_[static_cast<std::size_t>(rank)];
    if (step.kind == Step::Kind::slice) {
      const RowRange from = rows_.range(step.before.width, rank);
      const RowRange to = rows_.range(step.after.width, rank);
      return rows_of(mine, faults_.first_rows ? 0 : to.first - from.first, to.count);
    }
    if (step.kind == Step::Kind::keep_one) {
      // The first of the ranks that have the same value: none with a lower number is in the same team of the
      // sum and at the same place in what was owed.
      const Span owed = step.before.owed;
      const Span all = step.after.owed;
      for (int other = 0; other < rank && !faults_.nothing_kept; ++other)
        if (all.team_of(other).first == all.team_of(rank).first && owed.member(other) == owed.member(rank))
          return {mine.rows, mine.cols, 0};
      return mine;
    }
    const Members team(step.grid, rank);
    if (step.kind == Step::Kind::gather_columns) return side_by_side(team, rank);
    if (step.op == Op::all_reduce) {
      const int d = team.member(rank) / step.grid.tp;
      return sum(team, d, d + 1, 0, mine.rows);
    }
    if (step.op == Op::all_gather || step.op == Op::all_reduce_all_gather) {
      const int t = team.member(rank) % step.grid.tp;
      Rectangle all(0, mine.cols, 0);
      for (int d = 0; d < step.grid.dp; ++d) {
        const Rectangle& theirs = held_[team.at(t, d)];
        const Rectangle block = step.op == Op::all_gather ? theirs : sum(team, d, d + 1, 0, theirs.rows);
        all.rows += block.rows;
        all.values.insert(all.values.end(), block.values.begin(), block.values.end());
      }
      return all;
    }
    return scattered(step, team, rank);
  }

  /// The sum of some rows over all TP members of the groups begin .. end - 1, or over my TP members alone.
  Rectangle sum(const Members& team, int begin, int end, std::size_t first, std::size_t count) {
    Rectangle total;
    for (int d = begin; d < end; ++d)
      for (int t = 0; t < team.grid.tp; ++t) add(team.at(t, d), first, count, total);
    return total;
  }

  Rectangle scattered(const Step& step, const Members& team, int rank) {
    const auto [t, d] = std::pair(team.member(rank) % step.grid.tp, team.member(rank) / step.grid.tp);
    std::vector<std::size_t> counts = rows_.counts(step.grid.stride * step.grid.tp, step.grid.dp, rank);
    if (faults_.equal_counts) {
      const std::size_t all = std::accumulate(counts.begin(), counts.end(), std::size_t{0});
      for (std::size_t i = 0; i < counts.size(); ++i)
        counts[i] = all / counts.size() + (i < all % counts.size() ? 1 : 0);
    }
    const std::size_t first = std::accumulate(counts.begin(), counts.begin() + d, std::size_t{0});
    const std::size_t count = counts[static_cast<std::size_t>(d)];
    if (step.op == Op::reduce_scatter_all_reduce) return sum(team, 0, step.grid.dp, first, count);
    Rectangle total;
    for (int each = 0; each < step.grid.dp; ++each) add(team.at(t, each), first, count, total);
    return total;
  }

  void add(std::size_t rank, std::size_t first, std::size_t count, Rectangle& total) {
    const Rectangle& theirs = held_[rank];
    const Rectangle part = rows_of(theirs, first, count);
    if (total.values.empty() && total.rows == 0) {
      total = part;
      return;
    }
    if (total.rows != part.rows || total.cols != part.cols) {
      wrong_ = fmt::format("rank {} brings {} rows into a sum of {}", rank, part.rows, total.rows);
      return;
    }
    for (std::size_t i = 0; i < part.values.size(); ++i)
      total.values[i] = plus(total.values[i], part.values[i]);
  }

  Rectangle rows_of(const Rectangle& from, std::size_t first, std::size_t count) {
    if (first + count > from.rows) {
      wrong_ = fmt::format("rows {} to {} of {} are asked for", first, first + count, from.rows);
      return {};
    }
    Rectangle part(count, from.cols, 0);
    std::copy_n(from.row(first), count * from.cols, part.values.data());
    return part;
  }

  Rectangle side_by_side(const Members& team, int rank) {
    const Rectangle& mine = held_[static_cast<std::size_t>(rank)];
    const int members = team.grid.dp;
    Rectangle all(mine.rows, mine.cols * static_cast<std::size_t>(members), poison);
    for (int m = 0; m < members; ++m) {
      const Rectangle& theirs = held_[team.at(0, m)];
      if (theirs.rows != mine.rows) {
        wrong_ = fmt::format("ranks with {} and {} rows gather columns", mine.rows, theirs.rows);
        return all;
      }
      const auto place = static_cast<std::size_t>(faults_.columns_reversed ? members - 1 - m : m) * mine.cols;
      for (std::size_t i = 0; i < mine.rows; ++i) std::copy_n(theirs.row(i), mine.cols, all.row(i) + place);
    }
    return all;
  }

  const RowPlan& rows_;
  const Faults& faults_;
  std::vector<Rectangle>& held_;
  std::string wrong_;
};

}  // namespace

Exchange symbolic_exchange(const ToyCase& toy, const Faults& faults) {
  return [&toy, faults](const Transition& transition, std::vector<Rectangle>& held) {
    return Symbolic(toy.rows, faults, held).run(transition.steps);
  };
}

}  // namespace mixcomm::verify
