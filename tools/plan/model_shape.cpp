#include "tools/plan/model_shape.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <system_error>

#include "mixcomm/error.hpp"
#include "runner/json_file.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::tools {
namespace {

using runner::JsonView;

constexpr std::size_t most_bytes = std::size_t{16} << 20U;
constexpr std::uint64_t most = std::uint64_t{1} << 24U;

/// A model type that plans are known to be right for.
struct Family {
  std::string_view type;
  bool latent = false;            ///< attention keeps one latent for all heads, which every TP rank has
  std::string_view assumed = {};  ///< what a plan of it leaves out
};

constexpr std::string_view whole_indexer =
    "the indexer of sparse attention is whole on every TP rank, so it needs no operation of its own";
constexpr std::array families{
    Family{"qwen3_moe"},
    Family{"qwen3_next"},
    Family{"qwen3_vl_moe"},
    Family{"qwen3_vl_moe_text"},
    Family{"deepseek_v3", true},
    Family{"deepseek_v32", true, whole_indexer},
    Family{"kimi_k2", true},
    Family{"glm4_moe"},
    Family{"gpt_oss", false,
           "biases behind a product whose sum is still owed are added by one TP rank alone, so that the sum "
           "holds them once"},
    Family{
        "minimax_m2", false,
        "queries and keys are normalized over all heads together: with attn_tp > 1 each layer needs a sum of "
        "one value per row for each of the two inside of attention, which is not in this plan"},
    Family{"mixtral"},
};

/// One model's fields, and what is assumed where they say nothing.
class Fields {
 public:
  explicit Fields(const JsonView& object) : object_(object) {}

  [[nodiscard]] std::size_t size(std::string_view field) const {
    return object_.at(field).as_integer({.min = 1, .max = most});
  }
  [[nodiscard]] std::size_t size_or(std::string_view field, std::size_t fallback) const {
    const auto found = object_.find(field);
    return found ? found->as_integer({.min = 0, .max = most}) : fallback;
  }
  [[nodiscard]] bool has(std::string_view field) const { return object_.find(field).has_value(); }
  [[nodiscard]] std::vector<std::string> texts(std::string_view field) const {
    std::vector<std::string> all;
    if (const auto list = object_.find(field))
      for (std::size_t i = 0; i < list->as_array().size(); ++i) all.push_back(list->element(i).as_string());
    return all;
  }
  [[nodiscard]] std::vector<std::size_t> sizes(std::string_view field) const {
    std::vector<std::size_t> all;
    if (const auto list = object_.find(field))
      for (std::size_t i = 0; i < list->as_array().size(); ++i)
        all.push_back(list->element(i).as_integer({.min = 0, .max = most}));
    return all;
  }
  [[nodiscard]] const JsonView& object() const { return object_; }

 private:
  const JsonView& object_;
};

/// transformers has renamed it between releases, and models differ.
std::size_t read_experts(const Fields& fields, std::string_view model) {
  std::optional<std::pair<std::string_view, std::size_t>> found;
  for (const std::string_view name : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    if (!fields.has(name)) continue;
    const std::size_t count = fields.size(name);
    if (found && found->second != count)
      fields.object().fail(fmt::format("has {} {}, but {} {}; they are two names of one thing", found->first,
                                       found->second, name, count));
    found.emplace(name, count);
  }
  if (found) return found->second;
  std::string known;
  for (const Family& each : families) known += fmt::format(", {}", each.type);
  fields.object().fail(fmt::format(
      "has model_type {}, and none of num_experts, num_local_experts and n_routed_experts; there are "
      "plans for models with experts: qwen3_5_moe{}, and others that have their fields",
      runner::in_quotes(model), known));
}

std::size_t read_shared_width(const Fields& fields, std::size_t expert_width) {
  if (fields.has("n_shared_experts")) return fields.size_or("n_shared_experts", 0) * expert_width;
  return fields.size_or("shared_expert_intermediate_size", fields.size_or("shared_intermediate_size", 0));
}

/// Which layers have experts; the others have a dense MLP.
std::vector<bool> read_sparse(const Fields& fields, std::size_t count) {
  std::vector<bool> sparse(count, true);
  if (const auto kinds = fields.texts("mlp_layer_types"); !kinds.empty()) {
    if (kinds.size() != count)
      fields.object().fail(fmt::format("has {} mlp_layer_types for {} layers", kinds.size(), count));
    for (std::size_t i = 0; i < count; ++i) sparse[i] = kinds[i] != "dense";
    return sparse;
  }
  const auto dense = fields.sizes("mlp_only_layers");
  const std::size_t step = std::max<std::size_t>(fields.size_or("decoder_sparse_step", 1), 1);
  const std::size_t first = fields.size_or("first_k_dense_replace", 0);
  const auto frequency = fields.object().find("moe_layer_freq");
  const bool listed = frequency && frequency->value().is_array();  // 0 or 1 for each layer
  const std::vector<std::size_t> each = listed ? fields.sizes("moe_layer_freq") : std::vector<std::size_t>();
  if (listed && each.size() != count)
    fields.object().fail(fmt::format("has {} of moe_layer_freq for {} layers", each.size(), count));
  const std::size_t every = listed ? 1 : std::max<std::size_t>(fields.size_or("moe_layer_freq", 1), 1);
  for (std::size_t i = 0; i < count; ++i)
    sparse[i] = std::find(dense.begin(), dense.end(), i) == dense.end() && (i + 1) % step == 0 &&
                i >= first && i % every == 0 && (!listed || each[i] != 0);
  return sparse;
}

/// "full attention", by layer.
std::vector<std::string> read_attention(const Fields& fields, std::size_t count, bool latent) {
  if (latent) return std::vector<std::string>(count, "latent attention");
  auto kinds = fields.texts("layer_types");
  if (!kinds.empty() && kinds.size() != count)
    fields.object().fail(fmt::format("has {} layer_types for {} layers", kinds.size(), count));
  for (std::string& kind : kinds) {
    if (kind.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") != std::string::npos)
      fields.object().fail(
          fmt::format("has {} among its layer_types; a kind is small letters, digits and \"_\"",
                      runner::in_quotes(kind)));
    std::replace(kind.begin(), kind.end(), '_', ' ');
  }
  if (!kinds.empty()) return kinds;
  const std::size_t interval = fields.size_or("full_attention_interval", 0);
  for (std::size_t i = 0; i < count; ++i)
    kinds.emplace_back(interval == 0 || (i + 1) % interval == 0 ? "full attention" : "linear attention");
  return kinds;
}

ModelShape planned(const JsonView& root, const std::string& model) {
  const auto text = root.find("text_config");
  const Fields fields(text ? *text : root);
  const auto family =
      std::find_if(families.begin(), families.end(), [&](const Family& each) { return each.type == model; });
  const bool known = family != families.end();
  ModelShape shape;
  const auto assume = [&shape](std::string what) { shape.assumed.push_back(std::move(what)); };
  runner::ModelConfig& config = shape.config;
  config.num_experts = read_experts(fields, model);
  if (!known)
    assume(
        fmt::format("model_type {} is none that plans were checked for; planned from its fields: attention "
                    "that is cut by heads, and experts or a dense MLP behind it",
                    runner::in_quotes(model)));
  if (known && !family->assumed.empty()) assume(std::string(family->assumed));
  config.vocab_size = fields.size("vocab_size");
  config.hidden_size = fields.size("hidden_size");
  config.num_attention_heads = fields.size("num_attention_heads");
  config.num_experts_per_tok = fields.size_or("num_experts_per_tok", 0);
  if (config.num_experts_per_tok > config.num_experts)
    fields.object().fail(fmt::format("has num_experts_per_tok {}, more than the {} experts that there are",
                                     config.num_experts_per_tok, config.num_experts));

  const bool latent = (known && family->latent) || fields.has("kv_lora_rank");
  config.num_key_value_heads = latent ? 1 : fields.size_or("num_key_value_heads", config.num_attention_heads);
  if (latent)
    assume("every TP rank of attention has the whole latent that stands for keys and values");
  else if (!fields.has("num_key_value_heads"))
    assume(fmt::format("as many KV heads as attention heads, {}: num_key_value_heads is missing",
                       config.num_key_value_heads));
  const bool own_width = fields.has("moe_intermediate_size");
  config.moe_intermediate_size = fields.size(own_width ? "moe_intermediate_size" : "intermediate_size");
  if (!own_width && !known)
    assume(fmt::format("experts of width {}, which is intermediate_size: moe_intermediate_size is missing",
                       config.moe_intermediate_size));
  config.shared_expert_intermediate_size = read_shared_width(fields, config.moe_intermediate_size);

  const std::size_t count = fields.size("num_hidden_layers");
  const auto attention = read_attention(fields, count, latent);
  const auto sparse = read_sparse(fields, count);
  for (std::size_t i = 0; i < count; ++i) shape.layers.push_back({attention[i], sparse[i]});
  config.layers.assign(count, runner::LayerKind::full_attention);
  const bool linear = std::find(attention.begin(), attention.end(), "linear attention") != attention.end();
  config.linear_num_key_heads = fields.size_or("linear_num_key_heads", config.num_attention_heads);
  config.linear_num_value_heads = fields.size_or("linear_num_value_heads", config.num_attention_heads);
  if (linear && !(fields.has("linear_num_key_heads") && fields.has("linear_num_value_heads")))
    assume(
        fmt::format("linear attention with as many heads as attention has, {}: linear_num_key_heads or "
                    "linear_num_value_heads is missing",
                    config.num_attention_heads));

  for (const std::string_view name : {"num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers"})
    if (const std::size_t more = fields.size_or(name, 0); more > 0)
      assume(fmt::format("layers that predict further tokens ({} {}) are left out", name, more));
  if (root.find("vision_config") || root.find("audio_config"))
    assume("the text part alone: what encodes images and sound is left out");
  return shape;
}

ModelShape qwen3_5(const std::filesystem::path& directory) {
  ModelShape shape{runner::read_model_config(directory), {}, {}};
  shape.assumed = shape.config.notes;
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
  if (model != "qwen3_5_moe" && model != "qwen3_5_moe_text" && !model.empty()) return planned(root, model);
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
  return modules::with_norms(std::move(model), {choices.quantize});
}

}  // namespace mixcomm::tools
