#include "tools/model_shape.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "mixcomm/error.hpp"
#include "runner/json_file.hpp"

namespace mixcomm::tools {
namespace {

using runner::JsonView;

constexpr std::size_t most_bytes = std::size_t{16} << 20U;
constexpr std::uint64_t most = std::uint64_t{1} << 24U;

std::size_t size_of_field(const JsonView& root, std::string_view field) {
  return root.at(field).as_integer({.min = 1, .max = most});
}
std::size_t size_or(const JsonView& root, std::string_view field, std::size_t fallback) {
  return root.has(field) ? root.at(field).as_integer({.min = 0, .max = most}) : fallback;
}

/// What all of them call the same.
runner::ModelConfig common(const JsonView& root) {
  runner::ModelConfig config;
  config.vocab_size = size_of_field(root, "vocab_size");
  config.hidden_size = size_of_field(root, "hidden_size");
  config.num_attention_heads = size_of_field(root, "num_attention_heads");
  config.linear_num_key_heads = config.num_attention_heads;
  config.linear_num_value_heads = config.num_attention_heads;
  config.moe_intermediate_size = size_of_field(root, "moe_intermediate_size");
  config.num_experts_per_tok = size_of_field(root, "num_experts_per_tok");
  config.layers.assign(size_of_field(root, "num_hidden_layers"), runner::LayerKind::full_attention);
  return config;
}

ModelShape qwen3(const JsonView& root) {
  ModelShape shape{common(root), {}};
  shape.config.num_key_value_heads = size_of_field(root, "num_key_value_heads");
  shape.config.num_experts = size_of_field(root, "num_experts");
  std::vector<std::size_t> dense;
  if (const auto only = root.find("mlp_only_layers"))
    for (std::size_t i = 0; i < only->as_array().size(); ++i)
      dense.push_back(only->element(i).as_integer({.min = 0, .max = most}));
  const std::size_t step = std::max<std::size_t>(size_or(root, "decoder_sparse_step", 1), 1);
  for (std::size_t i = 0; i < shape.config.layers.size(); ++i)
    shape.layers.push_back(
        {"full attention", std::find(dense.begin(), dense.end(), i) == dense.end() && (i + 1) % step == 0});
  return shape;
}

ModelShape deepseek(const JsonView& root) {
  ModelShape shape{common(root), {}};
  shape.config.num_key_value_heads = 1;  // one latent, that every TP rank has
  shape.config.num_experts = size_of_field(root, "n_routed_experts");
  shape.config.shared_expert_intermediate_size =
      size_or(root, "n_shared_experts", 0) * shape.config.moe_intermediate_size;
  const std::size_t dense = size_or(root, "first_k_dense_replace", 0);
  const std::size_t step = std::max<std::size_t>(size_or(root, "moe_layer_freq", 1), 1);
  for (std::size_t i = 0; i < shape.config.layers.size(); ++i)
    shape.layers.push_back({"latent attention", i >= dense && i % step == 0});
  return shape;
}

ModelShape qwen3_5(const std::filesystem::path& directory) {
  ModelShape shape{runner::read_model_config(directory), {}};
  for (const runner::LayerKind kind : shape.config.layers)
    shape.layers.push_back(
        {kind == runner::LayerKind::full_attention ? "full attention" : "linear attention", true});
  return shape;
}

}  // namespace

ModelShape read_model_shape(const std::filesystem::path& path) {
  std::error_code ignored;
  const bool is_directory = std::filesystem::is_directory(path, ignored);
  const std::filesystem::path file = is_directory ? path / "config.json" : path;
  const runner::Json document = runner::read_json_file(file, most_bytes);
  const JsonView root(document, file.string());
  const auto type = root.find("model_type");
  const std::string model = type ? type->as_string() : "";
  if (model == "qwen3_moe") return qwen3(root);
  if (model == "deepseek_v3") return deepseek(root);
  if (model != "qwen3_5_moe" && model != "qwen3_5_moe_text" && !model.empty())
    root.fail(fmt::format("has model_type '{}'; there are plans for qwen3_5_moe, qwen3_moe and deepseek_v3",
                          model));
  if (file.filename() != "config.json")
    root.fail("is of a Qwen3.5-MoE; name its directory, or a file config.json");
  return qwen3_5(is_directory ? path : file.parent_path());
}

ModelModules modules_of(const ModelShape& shape, const Parallelism& parallelism,
                        const ModelChoices& choices) {
  ModelModules model{
      .embedding = choices.sharded_embedding ? modules::sharded_embedding() : modules::embedding(),
      .layers = {},
      .head = modules::head(),
      .logits = {Rows::by_dp_rank}};
  std::optional<SharedExpert> shared;
  if (shape.config.shared_expert_intermediate_size > 0) {
    shared.emplace();
    if (choices.shared == ModelChoices::Shared::apart)
      *shared = {{Rows::by_dp_rank, TeamName::attn_tp}, Joined::apart};
  }
  for (const LayerShape& layer : shape.layers)
    model.layers.push_back({modules::attention(layer.attention),
                            layer.experts ? modules::experts(shared) : modules::dense_mlp(parallelism)});
  if (choices.head == ModelChoices::Head::sharded) model.head = modules::sharded_head();
  if (choices.head == ModelChoices::Head::world) model.head = modules::world_head();
  return model;
}

}  // namespace mixcomm::tools
