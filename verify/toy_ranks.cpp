// The integer decoder on ranks.
#include "verify/toy_ranks.hpp"

#include <fmt/format.h>

#include <map>

namespace mixcomm::verify {
namespace {

class ToyRun {
 public:
  ToyRun(const ToyCase& toy, const std::vector<int>& ranks, const Exchange& exchange)
      : toy_(toy),
        p_(toy.plan.parallelism()),
        model_(toy.plan.modules()),
        ranks_(ranks),
        exchange_(exchange) {
    tokens_.assign(toy.rows.total(), 0);
    std::size_t real = 0;
    for (const RowRange& range : toy.rows.real({0, toy.rows.total()}))
      for (std::size_t i = 0; i < range.count; ++i) {
        const std::uint64_t token = toy.seed * 1000 + ++real;
        tokens_[range.first + i] = token;
        oracle_.emplace(token, DenseRow(model_, token));
      }
  }

  ToyResult run() {
    embed();
    std::size_t module = 0;
    if (!cross(toy_.plan.before_attention(0), module, nullptr)) return result_;
    for (std::size_t i = 0; i < model_.layers.size(); ++i) {
      if (i > 0 && !cross(toy_.plan.before_attention(i), module, nullptr)) return result_;
      for (const Module* each : {&model_.layers[i].attention, &model_.layers[i].mlp}) {
        const Boundary& behind =
            each == &model_.layers[i].attention ? toy_.plan.before_mlp(i) : toy_.plan.after_mlp(i);
        const std::vector<Rectangle> residual = stream_;
        forward(*each, module);
        if (!cross(behind, module + 1, &residual)) return result_;
        ++module;
      }
    }
    head(module);
    const Transition& to = toy_.plan.logits().transition;
    if (!exchanged(to, stream_, "logits") || !pads_are_clean(toy_.plan.logits())) return result_;
    compare_logits(to.to);
    return result_;
  }

 private:
  [[nodiscard]] RowRange range(const Layout& layout, int rank) const {
    return toy_.rows.range(spread_of(layout, p_).width, rank);
  }

  /// A module's output on one rank: value(row of the step, token, column) for real rows, poison for others.
  template <class F>
  Rectangle output(const Layout& layout, int rank, std::size_t cols, const F& value) const {
    const RowRange own = range(layout, rank);
    Rectangle out(own.count, cols, poison);
    for (std::size_t i = 0; i < own.count; ++i)
      if (const std::uint64_t token = tokens_[own.first + i]; token != 0)
        for (std::size_t j = 0; j < cols; ++j) out.row(i)[j] = value(own.first + i, token, j);
    return out;
  }

  void embed() {
    const Layout& gives = model_.embedding.gives;
    const Span owed = span_of(gives.owed, p_);
    for (const int rank : ranks_)
      stream_.push_back(
          output(gives, rank, DenseRow::hidden, [&](std::size_t, std::uint64_t token, std::size_t j) {
            return part_of(DenseRow::embedding(token)[j], owed.size(), owed.member(rank), token * 8 + j);
          }));
  }

  /// Of ranks_[i]: weight x norm(its stream), or its part of that.
  template <class W>
  Rectangle product(const Layout& gives, std::size_t i, std::size_t module, const Layout& takes,
                    const W& weight) const {
    const int rank = ranks_[i];
    const Span owed = span_of(gives.owed, p_);
    const RowRange had = range(takes, rank);
    return output(gives, rank, DenseRow::hidden, [&](std::size_t row, std::uint64_t token, std::size_t j) {
      // A module that gives other rows than it takes has sent some itself: then from the oracle.
      const bool has = row >= had.first && row < had.first + had.count;
      const Value* stream = has ? stream_[i].row(row - had.first) : oracle_.at(token).before(module).data();
      const Value normed = DenseRow::norm(stream, module)[j];
      if (normed == poison) return poison;
      return normed *
             part_of(weight(token, j), owed.size(), owed.member(rank), (module << 32U) + token * 8 + j);
    });
  }

  void forward(const Module& module, std::size_t index) {
    shared_.clear();
    std::vector<Rectangle> outputs;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      outputs.push_back(
          product(module.gives, i, index, module.takes,
                  [&](std::uint64_t token, std::size_t j) { return DenseRow::weight(index, token, j); }));
      if (module.adds_residual) add(stream_[i], outputs.back());
      if (module.shared)
        shared_.push_back(
            product(module.shared->gives, i, index, module.takes,
                    [&](std::uint64_t, std::size_t j) { return DenseRow::shared_weight(index, j); }));
    }
    stream_ = std::move(outputs);
  }

  /// to += from where both have rows.
  static void add(const Rectangle& from, Rectangle& to) {
    for (std::size_t i = 0; i < std::min(to.values.size(), from.values.size()); ++i)
      to.values[i] = plus(to.values[i], from.values[i]);
  }

  bool exchanged(const Transition& transition, std::vector<Rectangle>& held, const std::string& what) {
    if (std::string wrong = exchange_(transition, held); !wrong.empty()) {
      result_.wrong = fmt::format("{}: {}", what, wrong);
      return false;
    }
    return true;
  }

  /// stream_: what the module gave -> what the next one gets.
  bool cross(const Boundary& boundary, std::size_t module, const std::vector<Rectangle>* residual) {
    const Layout& from = boundary.transition.from;
    std::vector<std::vector<Rectangle>> behind;
    for (const Addend& each : boundary.addends) {
      std::vector<Rectangle> held = each.name == "residual" ? *residual : shared_;
      if (!exchanged(each.way, held, boundary.name + ", " + each.name)) return false;
      if (each.added == Added::after) {
        behind.push_back(std::move(held));
        continue;
      }
      for (std::size_t i = 0; i < ranks_.size(); ++i)
        if (each.before(from, p_, ranks_[i])) add(held[i], stream_[i]);
    }
    if (!exchanged(boundary.transition, stream_, boundary.name)) return false;
    if (!pads_are_clean(boundary)) return false;
    for (const auto& held : behind)
      for (std::size_t i = 0; i < ranks_.size(); ++i) add(held[i], stream_[i]);
    return compare(boundary, module);
  }

  /// Behind what sends something.
  bool pads_are_clean(const Boundary& boundary) {
    if (boundary.transition.cost.collectives == 0) return true;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      const RowRange own = range(boundary.transition.to, ranks_[i]);
      for (const RowRange& pad : toy_.rows.pads(own))
        for (std::size_t r = pad.first; r < pad.first + pad.count; ++r)
          for (std::size_t j = 0; j < stream_[i].cols && r - own.first < stream_[i].rows; ++j)
            if (stream_[i].row(r - own.first)[j] == poison) {
              result_.wrong =
                  fmt::format("{}: rank {}: a pad row's garbage was read", boundary.name, ranks_[i]);
              return false;
            }
    }
    return true;
  }

  template <class F>
  bool compare(const std::string& name, const Layout& layout, const F& expected) {
    ++result_.boundaries;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      const RowRange own = range(layout, ranks_[i]);
      const Rectangle& got = stream_[i];
      if (got.rows != own.count) {
        result_.wrong = fmt::format("{}: rank {} has {} rows, not {}", name, ranks_[i], got.rows, own.count);
        return false;
      }
      for (std::size_t r = 0; r < own.count; ++r)
        if (const std::uint64_t token = tokens_[own.first + r]; token != 0)
          for (std::size_t j = 0; j < got.cols; ++j)
            if (got.row(r)[j] != expected(oracle_.at(token), j)) {
              result_.wrong = fmt::format("{}: rank {}, row {} of the step, column {}: {} instead of {}",
                                          name, ranks_[i], own.first + r, j,
                                          got.row(r)[j] == poison ? "garbage" : std::to_string(got.row(r)[j]),
                                          expected(oracle_.at(token), j));
              return false;
            }
    }
    return true;
  }
  bool compare(const Boundary& boundary, std::size_t module) {
    return compare(boundary.name, boundary.transition.to,
                   [module](const DenseRow& row, std::size_t j) { return row.before(module)[j]; });
  }
  void compare_logits(const Layout& layout) {
    (void)compare("logits", layout, [](const DenseRow& row, std::size_t column) {
      return column < DenseRow::vocab ? row.logit(column) : 0;
    });
  }

  void head(std::size_t module) {
    const Layout& gives = model_.head.gives;
    const Span columns = span_of(gives.columns, p_);
    const auto shards = static_cast<std::size_t>(columns.size());
    const std::size_t width = (DenseRow::vocab + shards - 1) / shards;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      const std::size_t first = static_cast<std::size_t>(columns.member(ranks_[i])) * width;
      const RowRange had = range(model_.head.takes, ranks_[i]);
      Rectangle logits =
          output(gives, ranks_[i], width, [&](std::size_t row, std::uint64_t, std::size_t j) -> Value {
            if (first + j >= DenseRow::vocab) return 0;
            const DenseRow::Row normed = DenseRow::norm(stream_[i].row(row - had.first), module);
            Value sum = 0;
            for (std::size_t k = 0; k < DenseRow::hidden; ++k) {
              if (normed[k] == poison) return poison;
              sum += DenseRow::head_weight(first + j, k) * normed[k];
            }
            return sum;
          });
      stream_[i] = std::move(logits);
    }
  }

  const ToyCase& toy_;
  const Parallelism& p_;
  const ModelModules& model_;
  const std::vector<int>& ranks_;
  const Exchange& exchange_;
  std::vector<std::uint64_t> tokens_;  ///< of each row of the step; 0: a pad row
  std::map<std::uint64_t, DenseRow> oracle_;
  std::vector<Rectangle> stream_;  ///< of each rank
  std::vector<Rectangle> shared_;
  ToyResult result_;
};

}  // namespace

ToyResult run_toy(const ToyCase& toy, const std::vector<int>& ranks, const Exchange& exchange) {
  return ToyRun(toy, ranks, exchange).run();
}

}  // namespace mixcomm::verify
