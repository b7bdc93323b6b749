// How a model is spread over ranks.
#pragma once

#include "mixcomm/parallelism.hpp"
#include "runner/model_config.hpp"

namespace mixcomm::runner {

using mixcomm::Parallelism;

/// Throws InvalidArgument, with the numbers, the rule and the nearest layouts that work, unless attn_tp *
/// attn_dp = moe_tp * moe_ep and they divide the model: attn_tp the attention heads and the DeltaNet key and
/// value heads, and it divides or is a multiple of the KV heads; moe_tp the expert width; moe_ep the number
/// of experts.
void check_parallelism(const Parallelism& parallelism, const ModelConfig& config);

}  // namespace mixcomm::runner
