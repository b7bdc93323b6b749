#include "measure/tuning_steps.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mixcomm::tools {
namespace {

/// By so much a change must pay.
constexpr double worth_a_step = 0.97;

std::vector<Op> ops_of(int tp, int dp) {
  if (tp == 1 || dp == 1) return {Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce};
  return {Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
          Op::reduce_scatter_all_reduce};
}

}  // namespace

Op alias_of(Op op, int tp, int dp) {
  if (op == Op::all_reduce_all_gather && dp == 1) return Op::all_reduce;
  if (op == Op::all_reduce_all_gather && tp == 1) return Op::all_gather;
  if (op == Op::reduce_scatter_all_reduce && tp == 1) return Op::reduce_scatter;
  return op;
}

std::vector<SweepPoint> points_of(const Sweep& sweep) {
  std::vector<SweepPoint> points;
  const std::size_t row_bytes = sweep.hidden * size_of(sweep.dtype);
  for (const Op op : ops_of(sweep.tp, sweep.dp))
    for (const Buffers buffers : {Buffers::symmetric, Buffers::plain}) {
      std::size_t last_rows = 0;
      for (std::size_t bytes = row_bytes; bytes <= sweep.most_bytes; bytes *= sweep.factor) {
        const auto blocks = static_cast<std::size_t>(op == Op::all_reduce ? 1 : sweep.dp);
        const std::size_t rows = std::max<std::size_t>(bytes / row_bytes / blocks, 1);
        if (rows == last_rows) continue;
        last_rows = rows;
        SweepPoint point;
        point.cell.op = op;
        point.cell.rows.assign(static_cast<std::size_t>(sweep.dp), rows);
        point.cell.buffers = buffers;
        point.bytes = tensor_bytes(point.cell, sweep.hidden, sweep.dtype);
        points.push_back(std::move(point));
      }
    }
  return points;
}

ChoiceMaker::ChoiceMaker(Op op, bool symmetric, std::vector<Variant> candidates)
    : choice_{op, symmetric, {}}, candidates_(std::move(candidates)) {}

void ChoiceMaker::add(std::size_t bytes, const std::vector<double>& us) {
  const auto quickest = static_cast<std::size_t>(std::min_element(us.begin(), us.end()) - us.begin());
  if (last_bytes_ == 0) {
    best_ = quickest;
  } else if (us[quickest] < us[best_] * worth_a_step) {
    choice_.steps.push_back(step(static_cast<std::uint64_t>(
        std::sqrt(static_cast<double>(last_bytes_) * static_cast<double>(bytes)))));
    best_ = quickest;
  }
  last_bytes_ = bytes;
}

TuningTable::Choice ChoiceMaker::finish() const {
  TuningTable::Choice choice = choice_;
  choice.steps.push_back(step(UINT64_MAX));
  return choice;
}

TuningTable::Step ChoiceMaker::step(std::uint64_t up_to_bytes) const {
  return {up_to_bytes, candidates_[best_].algorithm, candidates_[best_].shape};
}

void add_choice(TuningTable& table, TuningTable::Choice choice) {
  table.choices.push_back(choice);
  const Op alias = alias_of(choice.op, table.tp, table.dp);
  if (alias == choice.op) return;
  choice.op = alias;
  table.choices.push_back(std::move(choice));
}

}  // namespace mixcomm::tools
