// Whether the decoder can take a checkpoint at all, found before its tensors are asked for one by one.
#pragma once

#include <string>

#include "runner/model_config.hpp"
#include "runner/safetensors.hpp"

namespace mixcomm::runner {

/// What the names of the decoder's tensors begin with: "model." in a CausalLM, "model.language_model." in a
/// ConditionalGeneration model.
[[nodiscard]] std::string prefix_of(const Safetensors& weights);

/// Throws InvalidArgument for a checkpoint that is quantized, by what its config or the names of its tensors
/// say, with the way of quantizing; and for one whose names begin otherwise, with what they begin with.
void check_checkpoint(const ModelConfig& config, const Safetensors& weights);

}  // namespace mixcomm::runner
