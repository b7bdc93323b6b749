// All spreads of a model over some GPUs, by what their communication takes.
#pragma once

#include "tools/plan/plan_report.hpp"

namespace mixcomm::tools {

/// Every attn_tp x attn_dp = moe_tp x moe_ep = gpus that the model divides into, the quickest first. `batch`:
/// rows of all DP ranks together, shared out as evenly as can be. Throws InvalidArgument where there is none.
[[nodiscard]] Json compare_json(const PlanRequest& request, int gpus, std::size_t batch);

void print_comparison(const Json& comparison);

}  // namespace mixcomm::tools
