// Continues prompts with a model that is spread over ranks, and measures it.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runner/checkpoint.hpp"
#include "runner/safetensors.hpp"
#include "runner/tokenizer.hpp"
#include "tools/command/model.hpp"
#include "tools/command/ranks.hpp"

namespace mixcomm::tools {

/// A model's files. Read before ranks are started, so that what is wrong with them is found once.
struct Model {
  explicit Model(const std::filesystem::path& directory)
      : config(runner::read_model_config(directory)), tokenizer(directory), weights(directory) {
    runner::check_checkpoint(config, weights);
  }
  runner::ModelConfig config;
  runner::Tokenizer tokenizer;
  runner::Safetensors weights;
};

struct GenerationOptions {
  runner::Parallelism parallelism;
  Algorithm algorithm = Algorithm::automatic;
  DType dtype = DType::bf16;
  RankFlags ranks;
  std::size_t max_new_tokens = 0;  ///< 0: 256, or as many as a prompt leaves room for
  std::size_t batch = 0;           ///< prompts of a DP rank at a time; 0: all at once

  /// Called on rank 0 when some prompts are done: those of indices first, first + 1, ...
  std::function<void(std::size_t first, const std::vector<std::vector<int>>& tokens)> on_batch;
};

struct Generation {
  std::vector<std::vector<int>> tokens;  ///< of each prompt
  Json latency;                          ///< see latency_text()
  bool prints = true;
};

/// Why a prompt cannot be continued by so many tokens (0: by one at least); nothing if it can: "is empty",
/// "has 1300 tokens; ...".
[[nodiscard]] std::optional<std::string> obstacle(const runner::ModelConfig& config,
                                                  const std::vector<int>& prompt, std::size_t new_tokens);

/// Deals the prompts out to the DP ranks in contiguous blocks and continues them. Throws InvalidArgument for
/// a prompt with an obstacle.
[[nodiscard]] Generation generate_on_ranks(const Model& model, const std::vector<std::vector<int>>& prompts,
                                           const GenerationOptions& options);

/// One line.
[[nodiscard]] std::string latency_text(const Json& latency);

}  // namespace mixcomm::tools
