// Boundaries, carried out.
#include "mixcomm/layer_communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "mixcomm/error.hpp"
#include "plan/layer_communicator_test_hook.hpp"
#include "plan/layer_plan_test_hook.hpp"

namespace mixcomm {

struct LayerCommunicator::State {
  LayerPlan plan;
  Communicators& communicators;
  LayerCommunicatorOptions options;
  std::array<SymmetricBuffer, 2> scratch{};
  Communicator* local = nullptr;  ///< for what sends nothing

  /// Collective: communicators and scratch memory that the boundaries need.
  void prepare();
};

std::vector<Boundary>& LayerCommunicatorTestHook::boundaries(LayerCommunicator& layers) {
  return LayerPlanTestHook::boundaries(layers.state_->plan);
}

namespace {

/// Local steps in front of a collective, and collectives in front of others, leave their output in scratch
/// memory.
bool needs_scratch(const Transition& transition) {
  return transition.steps.size() > 1 ||
         std::any_of(transition.steps.begin(), transition.steps.end(),
                     [](const Step& step) { return step.kind == Step::Kind::gather_columns; });
}

}  // namespace

void LayerCommunicator::State::prepare() {
  bool needed = false;
  const auto look_at = [&](const Transition& transition) {
    needed = needed || needs_scratch(transition);
    for (const Step& step : transition.steps)
      if (step.communicates()) (void)communicators.on(step.grid);
  };
  for (const Boundary& each : plan.boundaries()) {
    look_at(each.transition);
    for (const Addend& addend : each.addends) look_at(addend.way);
  }
  if (!needed || scratch[0].data() != nullptr) return;
  const std::size_t row_bytes = std::max(options.hidden, options.vocab) * size_of(options.dtype);
  for (SymmetricBuffer& buffer : scratch) buffer = local->allocate(options.max_rows * row_bytes);
}

void LayerCommunicatorTestHook::prepare(LayerCommunicator& layers) {
  layers.state_->prepare();
}

namespace {

std::byte* row_of(const Tensor& tensor, std::size_t row) {
  if (tensor.data == nullptr) return nullptr;
  return static_cast<std::byte*>(tensor.data) + row * tensor.hidden * size_of(tensor.dtype);
}

Tensor part_of(const Tensor& tensor, const RowRange& range) {
  return {row_of(tensor, range.first), range.count, tensor.hidden, tensor.dtype};
}

/// Takes a tensor through the steps of a transition.
class Crossing {
 public:
  Crossing(Communicators& communicators, Communicator& local, std::span<const SymmetricBuffer> scratch,
           const RowPlan& rows, const CallOptions& options)
      : communicators_(communicators),
        local_(local),
        scratch_(scratch),
        rows_(rows),
        options_(options),
        epilogue_(options.epilogue),
        rank_(communicators.rank()) {
    options_.epilogue = {};  // but for the last operation
  }

  void run(const std::vector<Step>& steps, Tensor x, const Tensor& out) {
    if (steps.empty()) return finish(x, out);
    clear_pads(steps, x);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const bool last = i + 1 == steps.size();
      x = take(steps[i], x, last ? &out : nullptr);
    }
    if (steps.back().kind != Step::Kind::collective) return finish(x, out);
    if (x.data != out.data) copy(x, out);
  }

 private:
  /// No sum may read what a module left in pad rows.
  void clear_pads(const std::vector<Step>& steps, const Tensor& x) {
    if (std::none_of(steps.begin(), steps.end(), [](const Step& s) { return s.communicates(); })) return;
    const RowRange own = rows_.range(steps.front().before.width, rank_);
    for (const RowRange& pad : rows_.pads(own))
      local_.clear(part_of(x, {pad.first - own.first, pad.count}), options_);
  }

  Tensor take(const Step& step, const Tensor& x, const Tensor* out) {
    switch (step.kind) {
      case Step::Kind::slice: {
        const RowRange from = rows_.range(step.before.width, rank_);
        const RowRange to = rows_.range(step.after.width, rank_);
        const Tensor view = part_of(x, {to.first - from.first, to.count});
        if (out != nullptr) return view;
        // Elsewhere it would lie at another place on each rank.
        const Tensor here = next_scratch(view.rows, view.hidden, view.dtype);
        copy(view, here);
        return here;
      }
      case Step::Kind::keep_one:
        if (!brings(step.before.owed, step.after.owed, rank_)) local_.clear(x, options_);
        return x;
      case Step::Kind::gather_columns:
        return gather_columns(step, x, out);
      case Step::Kind::collective:
        break;
    }
    const RowRange end = rows_.range(step.after.width, rank_);
    const Tensor to = out != nullptr ? *out : next_scratch(end.count, x.hidden, x.dtype);
    const std::vector<std::size_t> counts =
        rows_.counts(step.grid.stride * step.grid.tp, step.grid.dp, rank_);
    const bool equal = std::equal(counts.begin() + 1, counts.end(), counts.begin());
    const RowCounts row_counts = equal ? RowCounts(counts[0]) : RowCounts(counts);
    CallOptions options = options_;
    if (out != nullptr) options.epilogue = epilogue_;
    communicators_.on(step.grid).run(step.op, x, to, row_counts, options);
    return to;
  }

  /// Behind steps of which the last one sums nothing.
  void finish(const Tensor& from, const Tensor& to) {
    if (!epilogue_.any()) return copy(from, to);
    CallOptions options = options_;
    options.epilogue = epilogue_;
    local_.apply(from, to, options);
  }

  Tensor gather_columns(const Step& step, const Tensor& x, const Tensor* out) {
    const auto members = static_cast<std::size_t>(step.grid.dp);
    const Tensor gathered = next_scratch(members * x.rows, x.hidden, x.dtype);
    communicators_.on(step.grid).all_gather(x, gathered, x.rows, options_);
    const Tensor to = out != nullptr ? *out : next_scratch(x.rows, members * x.hidden, x.dtype);
    const std::size_t width = x.hidden * size_of(x.dtype);
    for (std::size_t m = 0; m < members && x.rows > 0; ++m)
      local_.copy({.to = row_of(to, 0) + m * width,
                   .to_pitch = members * width,
                   .from = row_of(gathered, m * x.rows),
                   .from_pitch = width,
                   .width = width,
                   .rows = x.rows},
                  options_);
    return to;
  }

  Tensor next_scratch(std::size_t rows, std::size_t hidden, DType dtype) {
    const SymmetricBuffer& buffer = scratch_[used_++ % scratch_.size()];
    const Tensor tensor{buffer.data(), rows, hidden, dtype};
    if (tensor.bytes() > buffer.bytes())
      throw InvalidArgument(
          fmt::format("a boundary's {} x {} elements do not fit into the {} bytes of its scratch memory; set "
                      "LayerCommunicatorOptions::max_rows to the most rows of all DP ranks together",
                      rows, hidden, buffer.bytes()));
    return tensor;
  }

  void copy(const Tensor& from, const Tensor& to) {
    const std::size_t width = from.hidden * size_of(from.dtype);
    if (from.data != to.data && from.bytes() > 0)
      local_.copy({.to = to.data,
                   .to_pitch = width,
                   .from = from.data,
                   .from_pitch = width,
                   .width = width,
                   .rows = from.rows},
                  options_);
  }

  Communicators& communicators_;
  Communicator& local_;
  std::span<const SymmetricBuffer> scratch_;
  const RowPlan& rows_;
  CallOptions options_;
  Epilogue epilogue_;
  int rank_;
  std::size_t used_ = 0;
};

}  // namespace

LayerCommunicator::LayerCommunicator(LayerPlan plan, Communicators& communicators,
                                     const LayerCommunicatorOptions& options)
    : state_(new State{std::move(plan), communicators, options}) {
  State& s = *state_;
  const Parallelism& p = s.plan.parallelism();
  if (p.world() != communicators.world())
    throw InvalidArgument(fmt::format("the plan is for {} ranks ({}), but there are {}", p.world(),
                                      to_string(p), communicators.world()));
  if (options.hidden == 0 || options.max_rows == 0)
    throw InvalidArgument(
        fmt::format("LayerCommunicatorOptions has hidden {} and max_rows {}; both must be at least 1",
                    options.hidden, options.max_rows));
  check(s.plan);
  s.local = &communicators.on({1, p.attn_tp, p.attn_dp});
  s.prepare();
}

LayerCommunicator::~LayerCommunicator() = default;
LayerCommunicator::LayerCommunicator(LayerCommunicator&&) noexcept = default;
LayerCommunicator& LayerCommunicator::operator=(LayerCommunicator&&) noexcept = default;

const LayerPlan& LayerCommunicator::plan() const {
  return state_->plan;
}
const Boundary& LayerCommunicator::before_attention(std::size_t layer) const {
  return state_->plan.before_attention(layer);
}
const Boundary& LayerCommunicator::before_mlp(std::size_t layer) const {
  return state_->plan.before_mlp(layer);
}
const Boundary& LayerCommunicator::after_mlp(std::size_t layer) const {
  return state_->plan.after_mlp(layer);
}
const Boundary& LayerCommunicator::logits() const {
  return state_->plan.logits();
}

RowPlan LayerCommunicator::rows(std::span<const std::size_t> rows, RowsWay way) const {
  return {rows, state_->plan.parallelism(), way};
}

RowRange LayerCommunicator::range(Rows layout, const RowPlan& rows) const {
  return rows.range(spread_of({layout}, state_->plan.parallelism()).width, state_->communicators.rank());
}

bool LayerCommunicator::adds_before(const Boundary& boundary, std::string_view addend) const {
  const Addend* found = boundary.addend(addend);
  return found != nullptr &&
         found->before(boundary.transition.from, state_->plan.parallelism(), state_->communicators.rank());
}

void LayerCommunicator::cross(const Boundary& boundary, Tensor in, Tensor out, const RowPlan& rows,
                              CallOptions options) {
  cross(boundary.transition, in, out, rows, options);
}

void LayerCommunicator::cross(const Transition& transition, Tensor in, Tensor out, const RowPlan& rows,
                              CallOptions options) {
  State& s = *state_;
  const auto fit = [&](std::string_view which, Tensor& tensor, const Layout& layout) {
    const RowRange own = range(layout.rows, rows);
    const bool fits = rows.way() == RowsWay::sum_len ? tensor.rows >= own.count : tensor.rows == own.count;
    if (!fits)
      throw InvalidArgument(fmt::format("'{}' has {} rows, but this rank has {} where rows are {} ({})",
                                        which, tensor.rows, own.count, name(layout.rows), name(rows.way())));
    tensor.rows = own.count;
    if (tensor.data == nullptr && tensor.elements() != 0)
      throw InvalidArgument(
          fmt::format("'{}' is null, but has {} x {} elements", which, tensor.rows, tensor.hidden));
  };
  fit("in", in, transition.from);
  fit("out", out, transition.to);
  const std::size_t slices =
      transition.to.columns == transition.from.columns
          ? 1
          : static_cast<std::size_t>(span_of(transition.from.columns, s.plan.parallelism()).size());
  const DType wanted = options.epilogue.quantizes() ? DType::fp8_e4m3 : in.dtype;
  if (out.dtype != wanted || in.hidden * slices != out.hidden)
    throw InvalidArgument(
        fmt::format("'in' is {} with hidden {}, 'out' {} with hidden {}; here 'out' has {} times the "
                    "columns, of {}",
                    name(in.dtype), in.hidden, name(out.dtype), out.hidden, slices, name(wanted)));
  Crossing(s.communicators, *s.local, s.scratch, rows, options).run(transition.steps, in, out);
}

}  // namespace mixcomm
