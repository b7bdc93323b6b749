// config.json: what is read, what transformers would fill in, and what is refused.
#include "runner/model_config.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/runner/temporary_directory.hpp"

namespace mixcomm::runner {
namespace {

using Json = nlohmann::json;
using test::refusal;
using test::says;
using test::TemporaryDirectory;

Json minimal() {
  return {{"architectures", {"Qwen3_5MoeForCausalLM"}},
          {"model_type", "qwen3_5_moe_text"},
          {"vocab_size", 1024},
          {"hidden_size", 128},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 2},
          {"head_dim", 32},
          {"num_experts", 8},
          {"num_experts_per_tok", 2}};
}

ModelConfig read(const Json& config, const Json& generation = nullptr) {
  const TemporaryDirectory directory;
  directory.write("config.json", config.dump());
  if (!generation.is_null()) directory.write("generation_config.json", generation.dump());
  return read_model_config(directory.path());
}

Json with(std::string_view field, const Json& value) {
  Json config = minimal();
  config[std::string(field)] = value;
  return config;
}

std::string refusal_of(const Json& config, const Json& generation = nullptr) {
  return refusal([&] { static_cast<void>(read(config, generation)); });
}

TEST(ModelConfig, ReadsTheTinyModel) {
  const ModelConfig config =
      read_model_config(std::filesystem::path(MIXCOMM_SOURCE_DIR) / "models" / "tiny-qwen3_5-moe");
  EXPECT_EQ(config.vocab_size, 1024U);
  EXPECT_EQ(config.hidden_size, 128U);
  EXPECT_EQ(config.layers, (std::vector{LayerKind::linear_attention, LayerKind::full_attention,
                                        LayerKind::linear_attention, LayerKind::full_attention}));
  EXPECT_EQ(config.num_attention_heads, 8U);
  EXPECT_EQ(config.num_key_value_heads, 2U);
  EXPECT_EQ(config.head_dim, 32U);
  EXPECT_EQ(config.rotary_dim, 8U);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.linear_num_key_heads, 4U);
  EXPECT_EQ(config.linear_num_value_heads, 8U);
  EXPECT_EQ(config.num_experts, 8U);
  EXPECT_EQ(config.num_experts_per_tok, 2U);
  EXPECT_EQ(config.moe_intermediate_size, 64U);
  EXPECT_EQ(config.shared_expert_intermediate_size, 64U);
  EXPECT_EQ(config.eos_token_ids, std::vector<int>{1021});
  EXPECT_EQ(config.max_position_embeddings, 1024U);
  EXPECT_FALSE(config.tie_word_embeddings);
}

TEST(ModelConfig, TakesTransformersDefaultsForMissingFields) {
  const ModelConfig config = read({{"model_type", "qwen3_5_moe_text"}});
  EXPECT_EQ(config.vocab_size, 248320U);
  EXPECT_EQ(config.hidden_size, 2048U);
  ASSERT_EQ(config.layers.size(), 40U);
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    EXPECT_EQ(config.layers[i], i % 4 == 3 ? LayerKind::full_attention : LayerKind::linear_attention) << i;
  }
  EXPECT_EQ(config.num_attention_heads, 16U);
  EXPECT_EQ(config.num_key_value_heads, 2U);
  EXPECT_EQ(config.head_dim, 256U);
  EXPECT_EQ(config.rotary_dim, 64U);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.rms_norm_eps, 1e-6F);
  EXPECT_EQ(config.linear_num_key_heads, 16U);
  EXPECT_EQ(config.linear_num_value_heads, 32U);
  EXPECT_EQ(config.linear_key_head_dim, 128U);
  EXPECT_EQ(config.linear_value_head_dim, 128U);
  EXPECT_EQ(config.linear_conv_kernel_dim, 4U);
  EXPECT_EQ(config.num_experts, 256U);
  EXPECT_EQ(config.num_experts_per_tok, 8U);
  EXPECT_EQ(config.moe_intermediate_size, 512U);
  EXPECT_EQ(config.shared_expert_intermediate_size, 512U);
  EXPECT_EQ(config.max_position_embeddings, 32768U);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_TRUE(config.eos_token_ids.empty());
}

TEST(ModelConfig, ReadsTheTextPartOfAConditionalGeneration) {
  Json text = minimal();
  text.erase("architectures");
  text["eos_token_id"] = 7;
  text["tie_word_embeddings"] = true;
  Json outer{{"architectures", {"Qwen3_5MoeForConditionalGeneration"}},
             {"model_type", "qwen3_5_moe"},
             {"text_config", text},
             {"vision_config", {{"hidden_size", 99}}},
             {"hidden_size", 77}};
  ModelConfig config = read(outer);
  EXPECT_EQ(config.hidden_size, 128U);
  EXPECT_EQ(config.eos_token_ids, std::vector<int>{7});
  EXPECT_TRUE(config.tie_word_embeddings);

  outer["tie_word_embeddings"] = false;  // the outer one is the one that transformers asks
  EXPECT_FALSE(read(outer).tie_word_embeddings);

  outer.erase("text_config");
  EXPECT_TRUE(says(refusal_of(outer), "config.json: text_config is missing"));
  outer["text_config"] = 3;
  EXPECT_TRUE(says(refusal_of(outer), "text_config must be an object, is 3"));
}

TEST(ModelConfig, ReadsLayerTypes) {
  EXPECT_EQ(read(with("layer_types", {"full_attention", "attention", "mamba", "linear_attention"})).layers,
            (std::vector{LayerKind::full_attention, LayerKind::full_attention, LayerKind::linear_attention,
                         LayerKind::linear_attention}));
  EXPECT_EQ(read(with("full_attention_interval", 2)).layers,
            (std::vector{LayerKind::linear_attention, LayerKind::full_attention, LayerKind::linear_attention,
                         LayerKind::full_attention}));
  EXPECT_EQ(read(with("layer_types", nullptr)).layers.back(), LayerKind::full_attention);
  EXPECT_TRUE(says(refusal_of(with("layer_types", {"full_attention"})), "layer_types has 1 entries"));
  EXPECT_TRUE(says(refusal_of(with("layer_types", {"full_attention", "moe", "mamba", "mamba"})),
                   R"(layer_types[1] is "moe")"));
  EXPECT_TRUE(
      says(refusal_of(with("full_attention_interval", 0)), "full_attention_interval must be an integer"));
}

TEST(ModelConfig, ReadsRopeInNewAndOldForms) {
  ModelConfig config = read(with(
      "rope_parameters", {{"rope_theta", 1e7}, {"partial_rotary_factor", 0.5}, {"rope_type", "default"}}));
  EXPECT_EQ(config.rope_theta, 1e7);
  EXPECT_EQ(config.rotary_dim, 16U);

  Json old = with("rope_scaling", {{"type", "default"}, {"mrope_section", {2, 1, 1}}});
  old["rope_theta"] = 5000;
  old["partial_rotary_factor"] = 1.0;
  config = read(old);
  EXPECT_EQ(config.rope_theta, 5000.0);
  EXPECT_EQ(config.rotary_dim, 32U);

  old["rope_parameters"] = {{"rope_theta", 1.5}};
  old["rope_scaling"] = nullptr;
  EXPECT_EQ(read(old).rope_theta, 1.5);
}

TEST(ModelConfig, RefusesRopeThatTheDecoderLacks) {
  EXPECT_TRUE(says(refusal_of(with("rope_parameters", {{"rope_type", "yarn"}, {"factor", 4}})),
                   R"(rope_parameters.rope_type is "yarn")"));
  EXPECT_TRUE(
      says(refusal_of(with("rope_scaling", {{"type", "linear"}})), R"(rope_scaling.type is "linear")"));
  EXPECT_TRUE(says(refusal_of(with("rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}})),
                   "rope_parameters.full_attention is unsupported"));
  EXPECT_TRUE(says(refusal_of(with("partial_rotary_factor", 0.0)), "gives 0 rotary dimensions"));
  EXPECT_TRUE(says(refusal_of(with("partial_rotary_factor", 0.1)), "gives 3 rotary dimensions"));
  EXPECT_TRUE(says(refusal_of(with("partial_rotary_factor", 1.5)), "must be a number from 0 to 1, is 1.5"));
  EXPECT_TRUE(says(refusal_of(with("rope_theta", -1)), "rope_theta must be a number"));
}

TEST(ModelConfig, ReadsEndOfSequence) {
  EXPECT_EQ(read(with("eos_token_id", 5)).eos_token_ids, std::vector<int>{5});
  EXPECT_EQ(read(with("eos_token_id", {5, 6})).eos_token_ids, (std::vector{5, 6}));
  EXPECT_TRUE(read(with("eos_token_id", nullptr)).eos_token_ids.empty());
  EXPECT_EQ(read(with("eos_token_id", 5), {{"eos_token_id", {8, 9}}}).eos_token_ids, (std::vector{8, 9}));
  EXPECT_EQ(read(with("eos_token_id", 5), {{"eos_token_id", nullptr}}).eos_token_ids, std::vector<int>{5});
  EXPECT_EQ(read(with("eos_token_id", 5), Json::object()).eos_token_ids, std::vector<int>{5});
  EXPECT_EQ(read(with("eos_token_id", {5, 1023})).notes, std::vector<std::string>{});
  EXPECT_TRUE(says(refusal_of(with("eos_token_id", {1, -1})), "eos_token_id[1] must be"));
  EXPECT_TRUE(
      says(refusal_of(minimal(), {{"eos_token_id", "x"}}), "generation_config.json: eos_token_id must be"));
  EXPECT_TRUE(
      says(refusal_of(minimal(), Json::array()), "generation_config.json: the top level must be an object"));
}

/// The names that releases of transformers have for one thing. One that is not known would be a default.
TEST(ModelConfig, TakesBothNamesOfTheExperts) {
  Json config = minimal();
  config.erase("num_experts");
  config["num_local_experts"] = 16;
  EXPECT_EQ(read(config).num_experts, 16U);
}

/// A plan can be made of a quantized model, so it is read; the decoder refuses it.
TEST(ModelConfig, SaysHowWeightsAreQuantized) {
  EXPECT_EQ(read(minimal()).quantization, "");
  EXPECT_EQ(read(with("quantization_config", nullptr)).quantization, "");
  EXPECT_EQ(read(with("quantization_config", {{"quant_method", "gptq"}, {"bits", 4}})).quantization,
            R"("gptq", 4 bits, says quantization_config in config.json)");
  EXPECT_EQ(read(with("quantization_config", {{"quant_method", "fp8"}})).quantization,
            R"("fp8", says quantization_config in config.json)");
  EXPECT_TRUE(says(refusal_of(with("quantization_config", 4)), "quantization_config must be an object"));
}

/// The tiny model with the tokens of a larger one in generation_config.json, as fine-tuned models have them.
TEST(ModelConfig, PassesOverEndsThatCanNeverCome) {
  const ModelConfig config = read(with("eos_token_id", 5), {{"eos_token_id", {1021, 151645}}});
  EXPECT_EQ(config.eos_token_ids, std::vector<int>{1021});
  ASSERT_EQ(config.notes.size(), 1U);
  EXPECT_TRUE(
      says(config.notes[0], "generation_config.json: eos_token_id 151645 is beyond the model's 1024 tokens"));
  EXPECT_TRUE(read(with("eos_token_id", 1024)).eos_token_ids.empty());
  EXPECT_EQ(read(with("eos_token_id", {1024, 9'000'000'000})).notes.size(), 2U);
}

TEST(ModelConfig, RefusesAnotherArchitecture) {
  EXPECT_TRUE(says(refusal_of(with("architectures", {"LlamaForCausalLM"})),
                   R"(architectures[0] is "LlamaForCausalLM")"));
  EXPECT_TRUE(says(refusal_of({{"model_type", "llama"}}), R"(model_type is "llama")"));
  EXPECT_TRUE(says(refusal_of(with("model_type", "qwen3_next")), R"(model_type is "qwen3_next")"));
  EXPECT_TRUE(says(refusal_of({{"hidden_size", 128}}), "has neither architectures nor model_type"));
  EXPECT_TRUE(
      says(refusal_of(with("architectures", "Qwen3_5MoeForCausalLM")), "architectures must be an array"));
}

TEST(ModelConfig, RefusesWhatTheDecoderLacks) {
  EXPECT_TRUE(says(refusal_of(with("attention_bias", true)), "attention_bias is true"));
  EXPECT_TRUE(says(refusal_of(with("hidden_act", "gelu")), R"(hidden_act is "gelu")"));
}

TEST(ModelConfig, RefusesNonsense) {
  for (const std::string_view field :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
        "linear_value_head_dim", "linear_conv_kernel_dim", "num_experts", "num_experts_per_tok",
        "moe_intermediate_size", "shared_expert_intermediate_size", "max_position_embeddings"}) {
    const Json nonsense = {
        0, -1, 1.5, "8", nullptr, true, Json::array(), std::numeric_limits<std::uint64_t>::max(), 1e30};
    for (const Json& value : nonsense) {
      const std::string message = refusal_of(with(field, value));
      EXPECT_TRUE(says(message, "config.json: " + std::string(field) + " must be an integer from 1 to"))
          << value;
    }
  }
  EXPECT_TRUE(says(refusal_of(with("num_key_value_heads", 3)),
                   "num_key_value_heads 3, which does not divide num_attention_heads 8"));
  EXPECT_TRUE(says(refusal_of(with("linear_num_key_heads", 5)),
                   "linear_num_key_heads 5, which does not divide linear_num_value_heads 32"));
  EXPECT_TRUE(
      says(refusal_of(with("num_experts_per_tok", 9)), "num_experts_per_tok 9, more than num_experts 8"));
  EXPECT_TRUE(says(refusal_of(with("rms_norm_eps", "small")), "rms_norm_eps must be a number"));
  EXPECT_TRUE(
      says(refusal_of(with("tie_word_embeddings", 1)), "tie_word_embeddings must be true or false, is 1"));
}

TEST(ModelConfig, RefusesMissingAndDamagedFiles) {
  const TemporaryDirectory directory;
  const auto message = [&] {
    return refusal([&] { static_cast<void>(read_model_config(directory.path())); });
  };
  EXPECT_TRUE(says(message(), "config.json: cannot be opened: No such file or directory"));

  for (const std::string_view text : {"", "{", "{\"a\": 1,}", "not json", "{\"a\": \"\xFF\"}",
                                      "{\"a\": \"\\ud800\"}", "{\"a\": 1e999}", "{} {}"}) {
    directory.write("config.json", text);
    EXPECT_TRUE(says(message(), "config.json: is damaged JSON")) << text;
  }
  directory.write("config.json", "[1]");
  EXPECT_TRUE(says(message(), "the top level must be an object, is an array"));
  directory.write("config.json", R"({"head_dim": 1, "head_dim": 2})");
  EXPECT_TRUE(says(message(), R"(has the key "head_dim" twice)"));
  directory.write("config.json", std::string(100'000, '['));
  EXPECT_TRUE(says(message(), "nested deeper than 64 levels"));
  directory.write("config.json", std::string((std::size_t{16} << 20U) + 1, ' '));
  EXPECT_TRUE(says(message(), "at most 16777216 are read"));

  std::filesystem::remove(directory.path() / "config.json");
  std::filesystem::create_directory(directory.path() / "config.json");
  EXPECT_TRUE(says(message(), "config.json: is not a regular file"));
}

TEST(ModelConfig, KeepsControlCharactersOutOfMessages) {
  const std::string message = refusal_of(with("hidden_act", "\x1b[31m\n" + std::string(1000, 'x')));
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_LT(message.size(), 500U);
}

}  // namespace
}  // namespace mixcomm::runner
