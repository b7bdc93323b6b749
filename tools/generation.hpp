// Continues prompts with a model that is spread over ranks, and measures it.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "runner/safetensors.hpp"
#include "runner/tokenizer.hpp"
#include "tools/model.hpp"
#include "tools/ranks.hpp"

namespace mixcomm::tools {

/// A model's files. Read before ranks are started, so that what is wrong with them is found once.
struct Model {
  explicit Model(const std::filesystem::path& directory)
      : config(runner::read_model_config(directory)), tokenizer(directory), weights(directory) {}
  runner::ModelConfig config;
  runner::Tokenizer tokenizer;
  runner::Safetensors weights;
};

struct GenerationOptions {
  runner::Parallelism parallelism;
  Algorithm algorithm = Algorithm::automatic;
  DType dtype = DType::bf16;
  RankFlags ranks;
  std::size_t max_new_tokens = 0;  ///< 0: a default that fits
  std::size_t batch = 0;           ///< prompts of a DP rank at a time; 0: all at once

  /// Called on rank 0 when some prompts are done: those of indices first, first + 1, ...
  std::function<void(std::size_t first, const std::vector<std::vector<int>>& tokens)> on_batch;
};

struct Generation {
  std::vector<std::vector<int>> tokens;  ///< of each prompt
  Json latency;                          ///< see latency_text()
  bool prints = true;
};

/// How questions are put to the model.
[[nodiscard]] std::string question_prompt(std::string_view question);

/// Deals the prompts out to the DP ranks in contiguous blocks and continues them. Throws InvalidArgument for
/// a prompt that is empty or too long for the model.
[[nodiscard]] Generation generate_on_ranks(const Model& model, const std::vector<std::vector<int>>& prompts,
                                           const GenerationOptions& options);

/// One line.
[[nodiscard]] std::string latency_text(const Json& latency);

}  // namespace mixcomm::tools
