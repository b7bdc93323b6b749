// What each module of a decoder layer takes and gives: how rows lie, and who still owes the sum. The decoder
// runs what collective_for() finds between these, and `mixcomm plan` shows it.
#pragma once

#include "mixcomm/plan.hpp"

namespace mixcomm::runner {

inline constexpr Layout mixer_in{Rows::by_dp_rank, Partial::none};
inline constexpr Layout mixer_out{Rows::by_dp_rank,
                                  Partial::tp};  ///< each TP rank has its share of the heads
inline constexpr Layout moe_in{Rows::replicated, Partial::none};
inline constexpr Layout moe_out{Rows::replicated, Partial::world};  ///< expert TP x EP spans all ranks
inline constexpr Layout head_in{Rows::by_dp_rank, Partial::none};

}  // namespace mixcomm::runner
