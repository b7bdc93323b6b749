// What runs in every step of a model asks for no memory.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include "mixcomm/mixcomm.hpp"
#include "support/count_allocations.hpp"
#include "support/spawn.hpp"

namespace mixcomm::test {
namespace {

constexpr std::size_t hidden = 64;
constexpr std::size_t most_rows = 64;

/// One rank: a step crosses every boundary of two layers, and of the logits.
class Model {
 public:
  Model(Bootstrap& bootstrap, const ModelModules& model, const Parallelism& parallelism)
      : communicators_(bootstrap, {}),
        layers_(LayerPlan(model, parallelism), communicators_,
                {.max_rows = most_rows, .hidden = hidden, .vocab = hidden * 8, .dtype = DType::fp32}),
        in_(most_rows * hidden * 8, 1.0F),
        out_(in_.size()) {}

  void step(const RowPlan& rows) {
    const std::size_t layers = layers_.plan().modules().layers.size();
    for (std::size_t layer = 0; layer < layers; ++layer) {
      cross(layers_.before_attention(layer), rows);
      cross(layers_.before_mlp(layer), rows);
      cross(layers_.after_mlp(layer), rows);
    }
    cross(layers_.logits(), rows, hidden * 2);
  }
  [[nodiscard]] const LayerCommunicator& layers() const { return layers_; }

 private:
  void cross(const Boundary& boundary, const RowPlan& rows, std::size_t columns = hidden) {
    const Transition& way = boundary.transition;
    const std::size_t slices = way.from.columns == way.to.columns ? 1 : 2;
    layers_.cross(boundary, tensor(in_.data(), layers_.range(way.from.rows, rows).count, columns),
                  tensor(out_.data(), layers_.range(way.to.rows, rows).count, columns * slices), rows);
  }

  Communicators communicators_;
  LayerCommunicator layers_;
  std::vector<float> in_;
  std::vector<float> out_;
};

TEST(Allocations, AreCounted) {
  const std::size_t before = allocations();
  const std::vector<int> some(10);
  EXPECT_EQ(allocations(), before + 1);
}

TEST(Allocations, CrossingABoundaryMakesNone) {
  struct Sizes {
    const char* name;
    Parallelism parallelism;
    bool dense;
  };
  const Sizes all[] = {{"experts by EP", {2, 2, 1, 4}, false},
                       {"experts by TP", {2, 2, 4, 1}, false},
                       {"a dense MLP of its own", {2, 2, 2, 2, 4}, true},
                       {"attention DP alone", {1, 4, 1, 4}, false}};
  for (const Sizes& sizes : all) {
    const auto results = spawn(Ranks::threads, 4, [&](Bootstrap& bootstrap) -> std::string {
      const Parallelism& p = sizes.parallelism;
      const Module mlp = sizes.dense ? modules::dense_mlp(p) : modules::experts();
      const bool sharded = p.attn_tp > 1;
      Model model(bootstrap,
                  {.embedding = modules::embedding(),
                   .layers = {{modules::attention(), mlp}, {modules::attention(), mlp}},
                   .head = sharded ? modules::sharded_head() : modules::head(),
                   .logits = {}},
                  p);
      const std::vector<std::vector<std::size_t>> counts =
          p.attn_dp == 2 ? std::vector<std::vector<std::size_t>>{{3, 3}, {8, 1}, {0, 5}}
                         : std::vector<std::vector<std::size_t>>{{2, 2, 2, 2}, {8, 1, 0, 3}};
      for (const RowsWay way : {RowsWay::exact, RowsWay::max_len, RowsWay::sum_len})
        for (const auto& each : counts) {
          const RowPlan rows = model.layers().rows(each, way);
          model.step(rows);  // what is learnt, and what queues need, may take memory once
          const std::size_t before = allocations();
          for (int i = 0; i < 3; ++i) model.step(rows);
          if (allocations() != before)
            return fmt::format("{} allocations in 3 steps, way {}, rows {} ...", allocations() - before,
                               name(way), each[0]);
        }
      return "";
    });
    EXPECT_EQ(failures(results), "") << sizes.name;
  }
}

}  // namespace
}  // namespace mixcomm::test
