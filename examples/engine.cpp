// How an engine uses the planner: it declares what its modules take and give, and a LayerCommunicator carries
// rows between them. Here a toy decoder in fp32 on attention TP 2 x DP 2 and experts TP 2 x EP 2, ranks as
// threads. Each module multiplies with a number that its ranks share out, so that the end can be checked
// against one rank.
#include <cstdio>
#include <mixcomm/mixcomm.hpp>
#include <span>
#include <vector>

namespace {

constexpr std::size_t hidden = 8;
constexpr std::size_t layers = 2;
constexpr float attention_weight = 4.0F;  // of all attn_tp ranks together
constexpr float experts_weight = 8.0F;    // of all moe_tp x moe_ep ranks together
constexpr float shared_weight = 2.0F;     // of all moe_tp ranks together; each moe_ep rank has a copy

const mixcomm::Parallelism parallelism{.attn_tp = 2, .attn_dp = 2, .moe_tp = 2, .moe_ep = 2};

/// What the modules' authors declare. Nothing below names a collective.
mixcomm::ModelModules declare() {
  using namespace mixcomm;
  Module attention{
      .name = "attention", .takes = {Rows::by_dp_rank}, .gives = {Rows::by_dp_rank, TeamName::attn_tp}};
  Module moe{.name = "MoE",
             .takes = {Rows::replicated},
             .gives = {Rows::replicated, partial_over(TeamName::moe_tp, TeamName::moe_ep)}};
  // Each moe_ep rank has the same part of the shared expert. Declared as joined on every rank, it would be
  // counted twice, and so refused when the plan is made.
  moe.shared = SharedExpert{{Rows::replicated, TeamName::moe_tp}, Joined::on_one_member};
  return {.embedding = modules::embedding(),
          .layers = std::vector<LayerModules>(layers, {attention, moe}),
          .head = modules::head(),
          .logits = {Rows::by_dp_rank}};
}

/// out = in * weight, of a module that has `weight` of the whole.
void multiply(std::span<const float> in, float weight, std::span<float> out) {
  for (std::size_t i = 0; i < in.size(); ++i) out[i] = in[i] * weight;
}
void add(std::span<const float> from, std::span<float> to) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

void engine(mixcomm::Bootstrap& bootstrap) {
  using mixcomm::Rows, mixcomm::tensor;
  mixcomm::Communicators communicators(bootstrap, {});
  mixcomm::LayerCommunicator boundaries(mixcomm::LayerPlan(declare(), parallelism), communicators,
                                        {.max_rows = 64, .hidden = hidden, .dtype = mixcomm::DType::fp32});

  // One step: DP rank 0 has three rows, DP rank 1 has one. Row i of the step starts as i + 1 in all columns.
  const std::vector<std::size_t> counts = {3, 1};
  const mixcomm::RowPlan rows = boundaries.rows(counts);
  const mixcomm::RowRange own = boundaries.range(Rows::by_dp_rank, rows);
  std::vector<float> residual(own.count * hidden);
  const auto first_value = [&own](std::size_t i) {
    const std::size_t row = own.first + i / hidden;
    return static_cast<float>(row + 1);
  };
  for (std::size_t i = 0; i < residual.size(); ++i) residual[i] = first_value(i);
  std::vector<float> all(rows.total() * hidden);
  const auto attn_tp = static_cast<float>(parallelism.attn_tp);
  const auto moe_tp = static_cast<float>(parallelism.moe_tp);
  const auto ranks = static_cast<float>(parallelism.world());
  std::vector<float> mixed(residual.size());
  std::vector<float> moe(all.size());
  std::vector<float> shared(all.size());

  for (std::size_t layer = 0; layer < layers; ++layer) {
    multiply(residual, attention_weight / attn_tp, mixed);
    const mixcomm::Boundary& before_mlp = boundaries.before_mlp(layer);
    if (boundaries.adds_before(before_mlp, "residual")) add(residual, mixed);
    boundaries.cross(before_mlp, tensor(mixed.data(), own.count, hidden),
                     tensor(all.data(), rows.total(), hidden), rows);

    multiply(all, experts_weight / ranks, moe);
    multiply(all, shared_weight / moe_tp, shared);
    const mixcomm::Boundary& after_mlp = boundaries.after_mlp(layer);
    if (boundaries.adds_before(after_mlp, "shared expert")) add(shared, moe);
    boundaries.cross(after_mlp, tensor(moe.data(), rows.total(), hidden),
                     tensor(residual.data(), own.count, hidden), rows);
    // The plan says that the residual, of which every rank has all rows by now, is added behind the
    // collective.
    add(std::span(all).subspan(own.first * hidden, own.count * hidden), residual);
  }

  // One rank would have multiplied by (1 + attention) * (1 + experts + shared) in each layer: 55 twice.
  bool right = true;
  for (std::size_t i = 0; i < residual.size(); ++i)
    right = right && residual[i] == first_value(i) * 55.0F * 55.0F;
  std::printf("rank %d: rows %zu to %zu %s\n", bootstrap.rank(), own.first, own.first + own.count,
              right ? "are right" : "ARE WRONG");
}

}  // namespace

int main() {
  try {
    mixcomm::run_threads(parallelism.world(), engine);
  } catch (const mixcomm::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
