#include "runner/model_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string_view>
#include <system_error>

#include "mixcomm/error.hpp"
#include "runner/json_file.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

constexpr std::size_t max_file_bytes = std::size_t{16} << 20U;

// Upper bounds of the fields: some 100 times the largest published model's, and small enough that no product
// of three of them overflows 64 bits.
constexpr std::uint64_t max_width = std::uint64_t{1} << 20U;
constexpr std::uint64_t max_count = std::uint64_t{1} << 14U;
constexpr std::uint64_t max_vocab = std::uint64_t{1} << 24U;
constexpr std::uint64_t max_positions = std::uint64_t{1} << 31U;

constexpr std::string_view causal_lm = "Qwen3_5MoeForCausalLM";
constexpr std::string_view conditional_generation = "Qwen3_5MoeForConditionalGeneration";
constexpr std::string_view text_model_type = "qwen3_5_moe_text";
constexpr std::string_view model_type = "qwen3_5_moe";

struct SizeField {
  std::string_view name;
  std::uint64_t fallback;  // of Qwen3_5MoeTextConfig
  std::uint64_t max;
};

std::size_t read_size(const JsonView& text, const SizeField& field) {
  return text.has(field.name) ? text.at(field.name).as_integer({.min = 1, .max = field.max}) : field.fallback;
}

/// The object that holds the text model's fields, after checking that this is a model that the decoder has.
JsonView text_part(const JsonView& root) {
  std::string architecture;
  if (const auto architectures = root.find("architectures");
      architectures && !architectures->as_array().empty()) {
    const JsonView first = architectures->element(0);
    architecture = first.as_string();
    if (architecture != causal_lm && architecture != conditional_generation) {
      first.fail(fmt::format("is {}; this decoder has {} and the text part of {}", in_quotes(architecture),
                             causal_lm, conditional_generation));
    }
  } else if (!root.find("model_type")) {
    root.fail("has neither architectures nor model_type");
  }
  const auto check_model_type = [](const JsonView& object) {
    const auto type = object.find("model_type");
    if (!type || type->as_string() == model_type || type->as_string() == text_model_type) return;
    type->fail(fmt::format("is {}; this decoder has {} and {}", in_quotes(type->as_string()), model_type,
                           text_model_type));
  };
  check_model_type(root);
  const auto type = root.find("model_type");
  const bool nested = architecture == conditional_generation || (type && type->as_string() == model_type) ||
                      root.find("text_config");
  if (!nested) return root;
  JsonView text = root.at("text_config");
  check_model_type(text);
  return text;
}

std::vector<LayerKind> read_layers(const JsonView& text) {
  const std::size_t count = read_size(text, {.name = "num_hidden_layers", .fallback = 40, .max = max_count});
  std::vector<LayerKind> layers;
  if (const auto types = text.find("layer_types")) {
    if (types->as_array().size() != count) {
      types->fail(fmt::format("has {} entries; num_hidden_layers is {}", types->as_array().size(), count));
    }
    for (std::size_t i = 0; i < count; ++i) {
      const JsonView entry = types->element(i);
      const std::string& kind = entry.as_string();
      // "attention", "mamba" and "conv" are the older names that transformers still maps.
      if (kind == "full_attention" || kind == "attention") {
        layers.push_back(LayerKind::full_attention);
      } else if (kind == "linear_attention" || kind == "mamba" || kind == "conv") {
        layers.push_back(LayerKind::linear_attention);
      } else {
        entry.fail(
            fmt::format("is {}; this decoder has linear_attention and full_attention", in_quotes(kind)));
      }
    }
    return layers;
  }
  const std::size_t interval =
      read_size(text, {.name = "full_attention_interval", .fallback = 4, .max = max_count});
  for (std::size_t i = 0; i < count; ++i) {
    layers.push_back((i + 1) % interval == 0 ? LayerKind::full_attention : LayerKind::linear_attention);
  }
  return layers;
}

/// rope_scaling (its older name) goes before rope_parameters, and what neither has is taken from the text
/// config: transformers' order.
void read_rope(const JsonView& text, ModelConfig& config) {
  std::optional<JsonView> rope = text.find("rope_scaling");
  if (!rope || rope->as_object().empty()) rope = text.find("rope_parameters");
  const auto field = [&](std::string_view name) {
    std::optional<JsonView> found = rope ? rope->find(name) : std::nullopt;
    return found ? found : text.find(name);
  };
  if (rope) {
    for (const std::string_view kind : {"full_attention", "linear_attention"}) {
      if (rope->has(kind))
        rope->at(kind).fail("is unsupported: one set of rope parameters serves all layers");
    }
    auto type = rope->find("rope_type");
    if (!type) type = rope->find("type");
    if (type && type->as_string() != "default") {
      type->fail(fmt::format("is {}; this decoder has \"default\" only", in_quotes(type->as_string())));
    }
  }
  if (const auto theta = field("rope_theta")) config.rope_theta = theta->as_number({.min = 1.0, .max = 1e12});

  const auto factor = field("partial_rotary_factor");
  const double part = factor ? factor->as_number({.min = 0.0, .max = 1.0}) : 0.25;
  config.rotary_dim = static_cast<std::size_t>(static_cast<double>(config.head_dim) * part);
  if (config.rotary_dim == 0 || config.rotary_dim % 2 != 0) {
    (factor ? *factor : text)
        .fail(fmt::format("gives {} rotary dimensions ({} of head_dim {}); they must be even and more than 0",
                          config.rotary_dim, part, config.head_dim));
  }
}

void refuse_what_the_decoder_lacks(const JsonView& text) {
  if (text.has("attention_bias") && text.at("attention_bias").as_bool()) {
    text.at("attention_bias").fail("is true; this decoder has no attention bias");
  }
  if (text.has("hidden_act") && text.at("hidden_act").as_string() != "silu") {
    const JsonView activation = text.at("hidden_act");
    activation.fail(fmt::format("is {}; this decoder has \"silu\"", in_quotes(activation.as_string())));
  }
}

void check_consistency(const JsonView& text, const ModelConfig& config) {
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    text.fail(fmt::format("has num_key_value_heads {}, which does not divide num_attention_heads {}",
                          config.num_key_value_heads, config.num_attention_heads));
  }
  if (config.linear_num_value_heads % config.linear_num_key_heads != 0) {
    text.fail(fmt::format("has linear_num_key_heads {}, which does not divide linear_num_value_heads {}",
                          config.linear_num_key_heads, config.linear_num_value_heads));
  }
  if (config.num_experts_per_tok > config.num_experts) {
    text.fail(fmt::format("has num_experts_per_tok {}, more than num_experts {}", config.num_experts_per_tok,
                          config.num_experts));
  }
}

/// eos_token_id: an id, a list of ids, or nothing.
void read_eos(const JsonView& object, ModelConfig& config) {
  config.eos_token_ids.clear();
  const auto eos = object.find("eos_token_id");
  if (!eos) return;
  const auto take = [&](const JsonView& each) {
    const std::uint64_t id = each.as_integer(
        {.min = 0, .max = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())});
    if (id < config.vocab_size) return config.eos_token_ids.push_back(static_cast<int>(id));
    config.notes.push_back(
        fmt::format("{}: eos_token_id {} is beyond the model's {} tokens, so it can never come; passed over",
                    each.file(), id, config.vocab_size));
  };
  if (!eos->value().is_array()) return take(*eos);
  for (std::size_t i = 0; i < eos->as_array().size(); ++i) take(eos->element(i));
}

/// quantization_config, or its name in compressed-tensors' older files: "\"gptq\", 4 bits, says ...".
std::string read_quantization(const JsonView& root, const JsonView& text) {
  for (const JsonView* object : {&root, &text})
    for (const std::string_view name : {"quantization_config", "compression_config"}) {
      const auto found = object->find(name);
      if (!found || found->as_object().empty()) continue;
      const auto method = found->find("quant_method");
      const auto bits = found->find("bits");
      return fmt::format("{}{}, says {} in config.json",
                         method ? in_quotes(method->as_string()) : "in a way without a name",
                         bits ? fmt::format(", {} bits", shown(bits->value())) : "", name);
    }
  return {};
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  const Json document = read_json_file(path, max_file_bytes);
  const JsonView root(document, path.string());
  const JsonView text = text_part(root);
  refuse_what_the_decoder_lacks(text);

  const auto size = [&text](const SizeField& field) { return read_size(text, field); };
  ModelConfig config;
  config.vocab_size = size({"vocab_size", 248320, max_vocab});
  config.hidden_size = size({"hidden_size", 2048, max_width});
  config.layers = read_layers(text);
  if (text.has("rms_norm_eps")) {
    config.rms_norm_eps = static_cast<float>(text.at("rms_norm_eps").as_number({.min = 0.0, .max = 1.0}));
  }
  // Of the two places in a nested config, transformers asks the outer one.
  if (const auto tie = root.find("tie_word_embeddings")) {
    config.tie_word_embeddings = tie->as_bool();
  } else if (const auto inner = text.find("tie_word_embeddings")) {
    config.tie_word_embeddings = inner->as_bool();
  }

  config.num_attention_heads = size({"num_attention_heads", 16, max_count});
  config.num_key_value_heads = size({"num_key_value_heads", 2, max_count});
  config.head_dim = size({"head_dim", 256, max_count});
  read_rope(text, config);

  config.linear_num_key_heads = size({"linear_num_key_heads", 16, max_count});
  config.linear_num_value_heads = size({"linear_num_value_heads", 32, max_count});
  config.linear_key_head_dim = size({"linear_key_head_dim", 128, max_count});
  config.linear_value_head_dim = size({"linear_value_head_dim", 128, max_count});
  config.linear_conv_kernel_dim = size({"linear_conv_kernel_dim", 4, 1024});

  config.num_experts = size({"num_experts", size({"num_local_experts", 256, max_count}), max_count});
  config.num_experts_per_tok = size({"num_experts_per_tok", 8, max_count});
  config.moe_intermediate_size = size({"moe_intermediate_size", 512, max_width});
  config.shared_expert_intermediate_size = size({"shared_expert_intermediate_size", 512, max_width});
  config.max_position_embeddings = size({"max_position_embeddings", 32768, max_positions});
  config.quantization = read_quantization(root, text);
  check_consistency(text, config);

  const JsonView& of_config = text.find("eos_token_id") ? text : root;
  const std::filesystem::path generation = directory / "generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(generation, ignored)) {
    const Json generation_document = read_json_file(generation, max_file_bytes);
    const JsonView generation_root(generation_document, generation.string());
    read_eos(generation_root.find("eos_token_id") ? generation_root : of_config, config);
  } else {
    read_eos(of_config, config);
  }
  return config;
}

}  // namespace mixcomm::runner
