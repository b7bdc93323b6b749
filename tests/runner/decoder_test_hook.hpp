// The only way to make a Decoder run other collectives than its plan's. In tests/, so that nothing else can.
#pragma once

#include "plan/layer_communicator_test_hook.hpp"
#include "runner/decoder_state.hpp"

namespace mixcomm::runner {

struct DecoderTestHook {
  /// Breaks every boundary that can be, unchecked.
  static void edit(Decoder& decoder, const std::function<bool(Boundary&, const Parallelism&)>& edit,
                   const Parallelism& parallelism) {
    if (!edit) return;
    for (Boundary& each : LayerCommunicatorTestHook::boundaries(decoder.state_->boundaries))
      (void)edit(each, parallelism);
    LayerCommunicatorTestHook::prepare(decoder.state_->boundaries);
  }
};

}  // namespace mixcomm::runner
