// The flags that name a model and how it is spread over ranks.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runner/model_config.hpp"
#include "runner/parallelism.hpp"
#include "tools/command/options.hpp"

namespace mixcomm::tools {

struct ModelFlags {
  std::filesystem::path directory;  ///< empty: the default
  int attn_tp = 1;
  int attn_dp = 1;
  int moe_tp = 0;  ///< 0: not given
  int moe_ep = 0;
  Algorithm algorithm = Algorithm::automatic;
  DType dtype = DType::bf16;
  int most_ranks = max_ranks;  ///< that the flags take: more where nothing runs
};
void add_model_flags(Flags& flags, ModelFlags& values);

/// The directory that was named, else the tiny model of this repository if it lies where the command runs.
/// Throws InvalidArgument.
[[nodiscard]] std::filesystem::path model_directory(const ModelFlags& flags);

/// What was not given is filled in: as many EP ranks as divide the experts, the rest TP. Throws what
/// check_parallelism throws.
[[nodiscard]] runner::Parallelism parallelism_of(const ModelFlags& flags, const runner::ModelConfig& config);

/// "mixcomm: note: ..." on stderr, once for all ranks.
void print_notes(const std::vector<std::string>& notes);

/// {"attn_tp": 2, ...}
[[nodiscard]] Json to_json(const Parallelism& parallelism);

}  // namespace mixcomm::tools
