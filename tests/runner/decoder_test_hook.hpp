// The only way to make a Decoder run other collectives than collective_for()'s. In tests/, so that nothing
// else can.
#pragma once

#include "runner/decoder_state.hpp"

namespace mixcomm::runner {

struct DecoderTestHook {
  /// Asks again for every transition, from `transition_for`.
  static void plan(Decoder& decoder, const Decoder::TransitionFor& transition_for) {
    decoder.state_->plan(transition_for);
  }
};

}  // namespace mixcomm::runner
