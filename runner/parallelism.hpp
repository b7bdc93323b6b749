// How a model is spread over ranks.
#pragma once

#include <string>

#include "runner/model_config.hpp"

namespace mixcomm::runner {

/// attn_tp x attn_dp ranks share attention (rank = attn_dp_rank * attn_tp + attn_tp_rank); the same ranks, as
/// moe_tp x moe_ep, share the experts (rank = moe_ep_rank * moe_tp + moe_tp_rank).
struct Parallelism {
  int attn_tp = 1;
  int attn_dp = 1;
  int moe_tp = 1;
  int moe_ep = 1;

  [[nodiscard]] int world() const { return attn_tp * attn_dp; }
  friend bool operator==(const Parallelism&, const Parallelism&) = default;
};

/// "attn 4x2, moe 2x4" (TP first).
[[nodiscard]] std::string to_string(const Parallelism& parallelism);

/// Throws InvalidArgument, with the numbers, the rule and the nearest layouts that work, unless attn_tp *
/// attn_dp = moe_tp * moe_ep and they divide the model: attn_tp the attention heads and the DeltaNet key and
/// value heads, and it divides or is a multiple of the KV heads; moe_tp the expert width; moe_ep the number
/// of experts.
void check_parallelism(const Parallelism& parallelism, const ModelConfig& config);

}  // namespace mixcomm::runner
