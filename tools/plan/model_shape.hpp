// What planning needs to know of a model: sizes and kinds of layers. More models have a plan than the runner
// can run.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "mixcomm/layer_plan.hpp"
#include "runner/model_config.hpp"

namespace mixcomm::tools {

struct LayerShape {
  std::string attention;  ///< "full attention", "linear attention", "latent attention", "sliding attention"
  bool experts = true;    ///< else a dense MLP
};

struct ModelShape {
  /// What check_parallelism() looks at. Of models without linear attention its heads are those of attention.
  runner::ModelConfig config;
  std::vector<LayerShape> layers;
  std::vector<std::string> assumed;  ///< what its plans assume, or leave out, in sentences for people
};

/// How the modules declare themselves, where there is a choice.
struct ModelChoices {
  enum class Head : std::uint8_t { whole, sharded, world };
  enum class Shared : std::uint8_t { summed, apart };
  Head head = Head::whole;
  Shared shared = Shared::summed;
  bool sharded_embedding = false;
  Quantize quantize = Quantize::none;  ///< of what MLPs and experts take, behind their norm
};

/// Reads a directory's config.json, or one that is named itself, of a model with experts. Of some models it
/// is known what else matters; others are planned from their fields alone, and `assumed` says so. Takes the
/// names that fields have had in transformers up to 5.24. Throws InvalidArgument, naming file and field.
[[nodiscard]] ModelShape read_model_shape(const std::filesystem::path& path);

[[nodiscard]] ModelModules modules_of(const ModelShape& shape, const Parallelism& parallelism,
                                      const ModelChoices& choices);

}  // namespace mixcomm::tools
