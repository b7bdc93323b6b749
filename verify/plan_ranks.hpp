// The integer decoder on real ranks: a LayerCommunicator in place of the symbolic operations.
#pragma once

#include "mixcomm/bootstrap.hpp"
#include "mixcomm/layer_communicator.hpp"
#include "verify/plan_cases.hpp"

namespace mixcomm::verify {

/// Every mapping of the bootstrap's ranks, in fp32 on the CPU backend. Collective. The report is the calling
/// rank's.
[[nodiscard]] PlanCheckReport check_plans_on(Bootstrap& bootstrap, const Selection& selection);

}  // namespace mixcomm::verify
