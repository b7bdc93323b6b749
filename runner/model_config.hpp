// What config.json says of a Qwen3.5-MoE text model.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace mixcomm::runner {

enum class LayerKind { linear_attention, full_attention };

/// The fields of Qwen3_5MoeTextConfig that decoding needs, under their names there.
struct ModelConfig {
  std::size_t vocab_size = 0;
  std::size_t hidden_size = 0;
  std::vector<LayerKind> layers;  ///< num_hidden_layers of them
  float rms_norm_eps = 1e-6F;
  bool tie_word_embeddings = false;

  std::size_t num_attention_heads = 0;
  std::size_t num_key_value_heads = 0;
  std::size_t head_dim = 0;
  std::size_t rotary_dim = 0;  ///< int(head_dim * partial_rotary_factor)
  double rope_theta = 10000.0;

  std::size_t linear_num_key_heads = 0;
  std::size_t linear_num_value_heads = 0;
  std::size_t linear_key_head_dim = 0;
  std::size_t linear_value_head_dim = 0;
  std::size_t linear_conv_kernel_dim = 4;

  std::size_t num_experts = 0;
  std::size_t num_experts_per_tok = 0;
  std::size_t moe_intermediate_size = 0;
  std::size_t shared_expert_intermediate_size = 0;

  /// Of generation_config.json where there is one, else of config.json. Those that are no token of the model
  /// can never come; they are left out, with a note.
  std::vector<int> eos_token_ids;
  std::size_t max_position_embeddings = 0;

  std::string quantization;  ///< how the weights are quantized, in printable words; empty: they are not

  std::vector<std::string> notes;  ///< what was passed over, in sentences for people
};

/// Reads `directory`/config.json: a Qwen3_5MoeForCausalLM, or the text part of a
/// Qwen3_5MoeForConditionalGeneration. Throws InvalidArgument, naming file and field, for a missing or
/// damaged file, another architecture, and features that the decoder does not have (attention bias, another
/// activation, a rope_type that is not "default").
[[nodiscard]] ModelConfig read_model_config(const std::filesystem::path& directory);

}  // namespace mixcomm::runner
