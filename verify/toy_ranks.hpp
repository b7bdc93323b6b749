// The integer decoder on ranks: the modules as they declare themselves, and what a plan does between them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "mixcomm/layer_plan.hpp"
#include "verify/toy_model.hpp"

namespace mixcomm::verify {

/// Brings what some ranks hold through a transition: `held[i]` of ranks[i]. Returns what is wrong with it, or
/// "".
using Exchange = std::function<std::string(const Transition&, std::vector<Rectangle>& held)>;

/// One model on one spread of rows.
struct ToyCase {
  LayerPlan plan;
  RowPlan rows;
  std::uint64_t seed = 0;
};

/// How many boundaries, and what was wrong with the first wrong one ("" if none was).
struct ToyResult {
  std::size_t boundaries = 0;
  std::string wrong;
};

/// Runs the model on `ranks` (all of them, or the calling one) from the embedding to the logits. Behind every
/// boundary each row of each rank is compared with the dense oracle, and pad rows are looked at: none may
/// hold what a module left there.
[[nodiscard]] ToyResult run_toy(const ToyCase& toy, const std::vector<int>& ranks, const Exchange& exchange);

}  // namespace mixcomm::verify
