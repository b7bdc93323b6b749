// How a model is spread over ranks: plain numbers.
#pragma once

#include <string>

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// Plans are made for up to so many ranks. Nothing runs for them, so they go beyond max_ranks, which a
/// communicator holds.
inline constexpr int max_planned_ranks = 4096;

/// attn_tp x attn_dp ranks share attention (rank = attn_dp_rank * attn_tp + attn_tp_rank); the same ranks, as
/// moe_tp x moe_ep, share the experts (rank = moe_ep_rank * moe_tp + moe_tp_rank); and in teams of mlp_tp,
/// the dense MLPs (neighbours are one team).
struct Parallelism {
  int attn_tp = 1;
  int attn_dp = 1;
  int moe_tp = 1;
  int moe_ep = 1;
  int mlp_tp = 0;   ///< 0: as attn_tp; 1: dense MLPs are fully data-parallel
  int attn_cp = 1;  ///< context-parallel attention; only 1 is supported, see check()

  [[nodiscard]] int world() const { return attn_tp * attn_dp; }
  [[nodiscard]] int dense_tp() const { return mlp_tp == 0 ? attn_tp : mlp_tp; }
  friend bool operator==(const Parallelism&, const Parallelism&) = default;
};

/// "attn 4x2, moe 2x4" (TP first), and ", mlp 8" where mlp_tp is not attn_tp.
[[nodiscard]] std::string to_string(const Parallelism& parallelism);

/// Throws InvalidArgument unless attn_tp * attn_dp = moe_tp * moe_ep <= max_planned_ranks, all are at least
/// 1, and mlp_tp divides their number; Unsupported, with the reason, for attn_cp > 1.
void check(const Parallelism& parallelism);

}  // namespace mixcomm
