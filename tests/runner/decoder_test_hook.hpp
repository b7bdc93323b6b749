// The only way to make a Decoder run other collectives than its plan's. In tests/, so that nothing else can.
#pragma once

#include "plan/layer_communicator_test_hook.hpp"
#include "runner/decoder_state.hpp"

namespace mixcomm::runner {

struct DecoderTestHook {
  /// Replaces every boundary, unchecked.
  static void edit(Decoder& decoder, const std::function<void(Boundary&)>& edit) {
    for (Boundary& each : LayerCommunicatorTestHook::boundaries(decoder.state_->boundaries)) edit(each);
  }
};

}  // namespace mixcomm::runner
