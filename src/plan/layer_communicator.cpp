// Boundaries, carried out.
#include "mixcomm/layer_communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "mixcomm/error.hpp"
#include "plan/bound_transition.hpp"
#include "plan/layer_communicator_test_hook.hpp"
#include "plan/layer_plan_test_hook.hpp"

namespace mixcomm {

struct LayerCommunicator::State {
  LayerPlan plan;
  Communicators& communicators;
  LayerCommunicatorOptions options;
  std::array<SymmetricBuffer, 2> scratch{};
  Communicator* local = nullptr;                                   ///< for what sends nothing
  std::array<int, 4> widths{};                                     ///< of rows that lie so, by Rows
  std::unordered_map<const Transition*, BoundTransition> bound{};  ///< all of the plan's

  /// Collective: binds the plan's transitions, with the communicators and the scratch memory that they need.
  void prepare();
  void cross(BoundTransition& steps, const Transition& transition, Tensor in, Tensor out, const RowPlan& rows,
             const CallOptions& call);
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
  bound.clear();
  bool needed = false;
  const auto look_at = [&](const Transition& transition) {
    needed = needed || needs_scratch(transition);
    bound.emplace(&transition, bind(transition, plan.parallelism(), communicators));
  };
  const auto look_at_all = [&](const Boundary& boundary) {
    look_at(boundary.transition);
    for (const Addend& addend : boundary.addends) look_at(addend.way);
  };
  for (const Boundary& each : plan.boundaries()) look_at_all(each);
  for (std::size_t layer = 1; layer < plan.modules().layers.size(); ++layer)
    look_at_all(plan.before_attention(layer));  // nothing happens there
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
  Crossing(int rank, Communicator& local, std::span<const SymmetricBuffer> scratch, std::size_t most_rows,
           const RowPlan& rows, const CallOptions& options)
      : rank_(rank),
        local_(local),
        scratch_(scratch),
        most_rows_(most_rows),
        rows_(rows),
        options_(options),
        epilogue_(options.epilogue) {
    options_.epilogue = {};  // but for the last operation
  }

  void run(BoundTransition& transition, Tensor x, const Tensor& out) {
    if (transition.steps.empty()) return finish(x, out);
    if (transition.communicates) clear_pads(transition.from, x);
    for (BoundStep& step : transition.steps) {
      const bool last = &step == &transition.steps.back();
      x = take(step, x, last ? &out : nullptr);
    }
    if (transition.steps.back().kind != Step::Kind::collective) return finish(x, out);
    if (x.data != out.data) copy(x, out);
  }

 private:
  /// No sum may read what a module left in pad rows.
  void clear_pads(int width, const Tensor& x) {
    const RowRange own = rows_.range(width, rank_);
    rows_.each_pad(own, [&](const RowRange& pad) {
      local_.clear(part_of(x, {pad.first - own.first, pad.count}), options_);
    });
  }

  Tensor take(BoundStep& step, const Tensor& x, const Tensor* out) {
    switch (step.kind) {
      case Step::Kind::slice: {
        const RowRange from = rows_.range(step.before, rank_);
        const RowRange to = rows_.range(step.after, rank_);
        const Tensor view = part_of(x, {to.first - from.first, to.count});
        if (out != nullptr) return view;
        // The slice begins at another offset of x on each rank, but peers look for a symmetric tensor at one
        // offset. So it is copied to scratch memory, which begins at the same place everywhere.
        const Tensor here = next_scratch(view.rows, view.hidden, view.dtype);
        copy(view, here);
        return here;
      }
      case Step::Kind::keep_one:
        if (!step.keeps) local_.clear(x, options_);
        return x;
      case Step::Kind::gather_columns:
        return gather_columns(step, x, epilogue_.any() ? nullptr : out);  // `out` may be FP8, and smaller
      case Step::Kind::collective:
        break;
    }
    const Tensor to = out != nullptr ? *out : next_scratch(rows_behind(step), x.hidden, x.dtype);
    CallOptions options = options_;
    if (out != nullptr) options.epilogue = epilogue_;
    step.communicator->run(step.op, x, to, step.row_counts(rows_, rank_, x.rows), options);
    return to;
  }

  /// Behind steps of which the last one sums nothing.
  void finish(const Tensor& from, const Tensor& to) {
    if (!epilogue_.any()) return copy(from, to);
    CallOptions options = options_;
    options.epilogue = epilogue_;
    local_.apply(from, to, options);
  }

  /// How many rows a tensor between two steps has.
  [[nodiscard]] std::size_t rows_behind(const BoundStep& step) const {
    const std::size_t rows = rows_.range(step.after, rank_).count;
    return rows_.device() != nullptr ? std::min(rows, most_rows_) : rows;
  }

  Tensor gather_columns(const BoundStep& step, const Tensor& x, const Tensor* out) {
    const std::size_t members = step.members;
    const Tensor gathered = next_scratch(members * x.rows, x.hidden, x.dtype);
    step.communicator->all_gather(x, gathered, x.rows, options_);
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

  int rank_;
  Communicator& local_;
  std::span<const SymmetricBuffer> scratch_;
  std::size_t most_rows_;
  const RowPlan& rows_;
  CallOptions options_;
  Epilogue epilogue_;
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
  for (const Rows each : {Rows::replicated, Rows::by_dp_rank, Rows::by_mlp_team, Rows::scattered})
    s.widths.at(static_cast<std::size_t>(each)) = spread_of({each}, p).width;
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

RowPlan LayerCommunicator::rows_on_device(const std::int64_t* counts, std::size_t most) const {
  return RowPlan::on_device(counts, most, state_->plan.parallelism());
}

RowRange LayerCommunicator::range(Rows layout, const RowPlan& rows) const {
  return rows.range(state_->widths.at(static_cast<std::size_t>(layout)), state_->communicators.rank());
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
  const auto found = state_->bound.find(&transition);
  if (found != state_->bound.end()) return state_->cross(found->second, transition, in, out, rows, options);
  BoundTransition another = bind(transition, state_->plan.parallelism(), state_->communicators);
  state_->cross(another, transition, in, out, rows, options);
}

void LayerCommunicator::State::cross(BoundTransition& steps, const Transition& transition, Tensor in,
                                     Tensor out, const RowPlan& rows, const CallOptions& call) {
  const bool on_device = rows.device() != nullptr;
  const int attn_tp = plan.parallelism().attn_tp;
  if (on_device && !steps.needs_host_counts.empty())
    throw Unsupported(fmt::format("'{}' to '{}' needs row counts on the host: {}", to_string(transition.from),
                                  to_string(transition.to), steps.needs_host_counts));
  const auto fit = [&](std::string_view which, Tensor& tensor, Rows layout, int width) {
    const RowRange own = rows.range(width, communicators.rank());
    // Of the rows of several DP ranks whose counts the device has, the host knows the most alone.
    const bool open = on_device && width > attn_tp;
    const bool fits = open                             ? tensor.rows <= own.count
                      : rows.way() == RowsWay::sum_len ? tensor.rows >= own.count
                                                       : tensor.rows == own.count;
    if (!fits)
      throw InvalidArgument(fmt::format("'{}' has {} rows, but this rank has {}{} where rows are {} ({})",
                                        which, tensor.rows, open ? "at most " : "", own.count, name(layout),
                                        on_device ? "counts in device memory" : name(rows.way())));
    if (!open) tensor.rows = own.count;
    if (tensor.data == nullptr && tensor.elements() != 0)
      throw InvalidArgument(
          fmt::format("'{}' is null, but has {} x {} elements", which, tensor.rows, tensor.hidden));
  };
  fit("in", in, transition.from.rows, steps.from);
  fit("out", out, transition.to.rows, steps.to);
  if (steps.from == steps.to && in.rows != out.rows)
    throw InvalidArgument(
        fmt::format("'in' has {} rows and 'out' {}; here they must have as many", in.rows, out.rows));
  const DType wanted = call.epilogue.quantizes() ? DType::fp8_e4m3 : in.dtype;
  if (out.dtype != wanted || in.hidden * steps.slices != out.hidden)
    throw InvalidArgument(
        fmt::format("'in' is {} with hidden {}, 'out' {} with hidden {}; here 'out' has {} times the "
                    "columns, of {}",
                    name(in.dtype), in.hidden, name(out.dtype), out.hidden, steps.slices, name(wanted)));
  Crossing(communicators.rank(), *local, scratch, options.max_rows, rows, call).run(steps, in, out);
}

}  // namespace mixcomm
