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
  const RowPlan& rows;
};

/// What a LayerCommunicator needs of memory: activations of the compute dtype in symmetric memory, on both
/// sides of a boundary. One is used for all boundaries of a kind.
class BoundaryBuffers {
 public:
  /// Collective: allocates for `max_rows` rows on both sides.
  BoundaryBuffers(Communicator& communicator, std::size_t max_rows, std::size_t hidden,
                  const DecoderOptions& options);

  /// Appends when the communication began and ended. Every rank crosses, also with no rows of its own.
  void cross(LayerCommunicator& layers, const Boundary& boundary, const Crossing& crossing,
             std::vector<CommInterval>& times);

 private:
  std::size_t hidden_;
  Precision precision_;
  Algorithm algorithm_;
  std::function<void()> hold_;
  SymmetricBuffer in_;
  SymmetricBuffer out_;
};

}  // namespace mixcomm::runner
