// The integer decoder on real ranks.
#include "verify/plan_ranks.hpp"

#include <cmath>
#include <limits>
#include <utility>

#include "mixcomm/error.hpp"

namespace mixcomm::verify {
namespace {

constexpr std::size_t most_rows = 64;
constexpr std::size_t spare_rows = 3;  ///< of sum_len, behind the rows

/// Memory that is used in place, of each side.
struct Sides {
  SymmetricBuffer in;
  SymmetricBuffer out;
};

float encoded(Value value) {
  return value == poison ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(value);
}
Value decoded(float value) {
  return std::isnan(value) ? poison : static_cast<Value>(value);
}

class RealExchange {
 public:
  RealExchange(LayerCommunicator& layers, Sides& sides, const ToyCase& toy, int rank)
      : layers_(layers), sides_(sides), toy_(toy), rank_(rank) {}

  std::string operator()(const Transition& transition, std::vector<Rectangle>& held) {
    Rectangle& mine = held[0];
    const Parallelism& p = toy_.plan.parallelism();
    const RowRange to = toy_.rows.range(spread_of(transition.to, p).width, rank_);
    const bool gathers = transition.to.columns != transition.from.columns;
    const std::size_t columns =
        mine.cols * (gathers ? static_cast<std::size_t>(span_of(transition.from.columns, p).size()) : 1);
    const std::size_t spare = toy_.rows.way() == RowsWay::sum_len ? spare_rows : 0;
    const auto in = fill(sides_.in, mine, spare);
    const Rectangle untouched(to.count + spare, columns, poison);
    const auto out = fill(sides_.out, untouched, 0);
    try {
      layers_.cross(transition, in, out, toy_.rows);
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    mine = Rectangle(to.count, columns, 0);
    const auto* values = static_cast<const float*>(out.data);
    for (std::size_t i = 0; i < mine.values.size(); ++i) mine.values[i] = decoded(values[i]);
    for (std::size_t i = mine.values.size(); i < untouched.values.size(); ++i)
      if (decoded(values[i]) != poison) return "a row behind the last one was written";
    return "";
  }

 private:
  static Tensor fill(const SymmetricBuffer& buffer, const Rectangle& from, std::size_t spare) {
    auto* values = buffer.as<float>();
    for (std::size_t i = 0; i < from.values.size(); ++i) values[i] = encoded(from.values[i]);
    for (std::size_t i = 0; i < spare * from.cols; ++i) values[from.values.size() + i] = encoded(poison);
    return tensor(values, from.rows + spare, from.cols);
  }

  LayerCommunicator& layers_;
  Sides& sides_;
  const ToyCase& toy_;
  int rank_;
};

}  // namespace

PlanCheckReport check_plans_on(Bootstrap& bootstrap, const Selection& selection) {
  constexpr std::size_t workspace = std::size_t{64} << 10U;
  Communicators communicators(bootstrap, {.workspace_bytes = workspace});
  // Columns of logits are padded to a multiple of the shards.
  constexpr std::size_t columns = DenseRow::vocab * 2;
  Communicator& world = communicators.on({1, bootstrap.world(), 1});
  const std::size_t bytes = (most_rows + spare_rows) * columns * sizeof(float);
  Sides sides{world.allocate(bytes), world.allocate(bytes)};
  PlanCheckReport report;
  for (const Parallelism& each : mappings(bootstrap.world())) {
    const ModelModules* made_for = nullptr;
    std::unique_ptr<LayerCommunicator> layers;
    std::size_t model = 0;
    check_mapping(
        each, selection,
        [&](const ToyCase& toy) {
          if (made_for == nullptr || model != report.models) {
            layers = std::make_unique<LayerCommunicator>(toy.plan, communicators,
                                                         LayerCommunicatorOptions{.max_rows = most_rows,
                                                                                  .hidden = DenseRow::hidden,
                                                                                  .vocab = columns,
                                                                                  .dtype = DType::fp32});
            made_for = &toy.plan.modules();
            model = report.models;
          }
          return run_toy(toy, {bootstrap.rank()}, RealExchange(*layers, sides, toy, bootstrap.rank()));
        },
        report);
  }
  return report;
}

}  // namespace mixcomm::verify
