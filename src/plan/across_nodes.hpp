// What an operation costs whose ranks lie on several nodes: a part inside each node, and one between nodes.
#pragma once

#include "mixcomm/cost.hpp"

namespace mixcomm {

/// Whether each of its teams does.
[[nodiscard]] bool lies_on_one_node(const Operation& operation, const CostModel& model);

/// predict() for ranks of one node, whichever they are.
[[nodiscard]] Prediction predict_on_one_node(const Operation& operation, const CostModel& model,
                                             Algorithm algorithm);

/// The others.
[[nodiscard]] Prediction predict_across_nodes(const Operation& operation, const CostModel& model,
                                              Algorithm algorithm);

}  // namespace mixcomm
