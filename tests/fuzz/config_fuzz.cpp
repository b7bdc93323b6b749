// read_model_config(): the input is config.json and, behind a NUL byte where there is one,
// generation_config.json.
#include "runner/model_config.hpp"

#include <algorithm>
#include <filesystem>

#include "fuzz/scratch_directory.hpp"
#include "fuzz/target.hpp"

namespace {

using mixcomm::fuzz::require;

/// What the decoder relies on.
void check(const mixcomm::runner::ModelConfig& config) {
  require(!config.layers.empty(), "there are layers");
  require(config.vocab_size > 0 && config.hidden_size > 0 && config.head_dim > 0, "sizes are not 0");
  require(config.rotary_dim > 0 && config.rotary_dim % 2 == 0 && config.rotary_dim <= config.head_dim,
          "the rotary part is an even part of a head");
  require(config.num_attention_heads % config.num_key_value_heads == 0, "heads share keys evenly");
  require(config.linear_num_value_heads % config.linear_num_key_heads == 0, "linear heads too");
  require(config.num_experts_per_tok <= config.num_experts, "as many experts as a token takes");
  require(config.rope_theta >= 1, "theta is a number of 1 or more");
  require(std::all_of(config.eos_token_ids.begin(), config.eos_token_ids.end(),
                      [&](int id) { return id >= 0 && static_cast<std::size_t>(id) < config.vocab_size; }),
          "end tokens are tokens");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const mixcomm::fuzz::ScratchDirectory scratch;
  const std::string_view input = mixcomm::fuzz::text_of(data, size);
  const std::size_t end = input.find('\0');
  scratch.write("config.json", input.substr(0, end));
  if (end != std::string_view::npos)
    scratch.write("generation_config.json", input.substr(end + 1));
  else
    std::filesystem::remove(scratch.path() / "generation_config.json");
  mixcomm::fuzz::may_refuse([&] { check(mixcomm::runner::read_model_config(scratch.path())); });
  return 0;
}
