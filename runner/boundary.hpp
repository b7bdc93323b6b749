// Where an activation passes from one module to the next, across ranks.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "mixcomm/mixcomm.hpp"
#include "runner/decoder.hpp"
#include "runner/numerics.hpp"

namespace mixcomm::runner {

/// One activation at one boundary.
struct Crossing {
  std::span<const float> in;
  std::span<float> out;
  std::span<const std::size_t> rows;  ///< per DP rank
};

/// The communication between two layouts. What goes over the wire is of the compute dtype and lies in
/// symmetric memory.
class Boundary {
 public:
  /// Collective: allocates for `max_rows` rows on both sides.
  Boundary(Communicator& communicator, std::size_t max_rows, std::size_t hidden,
           const DecoderOptions& options);

  /// Asks for the transition.
  void plan(const Decoder::TransitionFor& transition_for, const Layout& from, const Layout& to);

  /// Appends when the communication began and ended. Every rank crosses, also with no rows of its own.
  void cross(const Crossing& crossing, std::vector<CommInterval>& times);

 private:
  Communicator* communicator_;
  std::size_t hidden_;
  Precision precision_;
  Algorithm algorithm_;
  std::function<void()> hold_;
  Transition transition_;
  SymmetricBuffer in_;
  SymmetricBuffer out_;
};

}  // namespace mixcomm::runner
