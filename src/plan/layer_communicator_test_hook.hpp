// The only way to change a LayerCommunicator's plan after it was checked. Nothing but tests and the checker's
// mutants include it.
#pragma once

#include <vector>

#include "mixcomm/layer_communicator.hpp"

namespace mixcomm {

struct LayerCommunicatorTestHook {
  [[nodiscard]] static std::vector<Boundary>& boundaries(LayerCommunicator& layers);
  /// Collective: what changed boundaries need besides.
  static void prepare(LayerCommunicator& layers);
};

}  // namespace mixcomm
