// The only way to change a plan. Nothing but tests and the checker's mutants include it.
#pragma once

#include <vector>

#include "mixcomm/layer_plan.hpp"

namespace mixcomm {

struct LayerPlanTestHook {
  [[nodiscard]] static std::vector<Boundary>& boundaries(LayerPlan& plan) { return plan.boundaries_; }
};

}  // namespace mixcomm
