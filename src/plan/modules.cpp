// What modules usually declare.
#include "mixcomm/layer_plan.hpp"

namespace mixcomm::modules {
namespace {

constexpr Layout own_rows{Rows::by_dp_rank};
constexpr Layout all_rows{Rows::replicated};

}  // namespace

Module embedding() {
  return {.name = "embedding", .gives = own_rows};
}

Module sharded_embedding() {
  return {.name = "embedding", .gives = {Rows::by_dp_rank, TeamName::attn_tp}};
}

Module attention(std::string name) {
  return {.name = std::move(name), .takes = own_rows, .gives = {Rows::by_dp_rank, TeamName::attn_tp}};
}

Module dense_mlp(const Parallelism& parallelism) {
  // Names that say the same in fewer words, where there are such.
  const Rows rows = parallelism.dense_tp() == parallelism.attn_tp   ? Rows::by_dp_rank
                    : parallelism.dense_tp() == parallelism.world() ? Rows::replicated
                    : parallelism.dense_tp() == 1                   ? Rows::scattered
                                                                    : Rows::by_mlp_team;
  return {.name = "dense MLP", .takes = {rows}, .gives = {rows, TeamName::mlp_tp}};
}

Module experts(std::optional<SharedExpert> shared) {
  return {.name = "MoE",
          .takes = all_rows,
          .gives = {Rows::replicated, partial_over(TeamName::moe_tp, TeamName::moe_ep)},
          .shared = shared};
}

Module head() {
  return {.name = "LM head", .takes = own_rows, .gives = own_rows};
}

Module sharded_head() {
  return {.name = "LM head", .takes = own_rows, .gives = {Rows::by_dp_rank, complete, TeamName::attn_tp}};
}

Module world_head() {
  return {.name = "LM head", .takes = all_rows, .gives = {Rows::replicated, complete, TeamName::world}};
}

ModelModules with_norms(ModelModules model, InputNorm mlp) {
  for (LayerModules& layer : model.layers) {
    layer.attention.norm.emplace();
    layer.mlp.norm = mlp;
  }
  model.head.norm.emplace();
  return model;
}

}  // namespace mixcomm::modules
