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

/// An RMSNorm that rides in a boundary: y = x / rms(x) * (1 + weight).
class BoundaryNorm {
 public:
  BoundaryNorm(std::span<const float> weight, float epsilon, Precision precision);

  /// The steps of an epilogue that norms.
  [[nodiscard]] Epilogue epilogue() const;

 private:
  std::vector<std::byte> weight_;  ///< of the compute dtype
  std::size_t hidden_;
  DType dtype_;
  float epsilon_;
};

/// One activation at one boundary.
struct Crossing {
  std::span<const float> in;
  std::span<float> out;  ///< normed: what the next module takes
  const RowPlan& rows;
  const BoundaryNorm& norm;
  std::byte*
      residual;  ///< of the compute dtype, in the rows that Finish::residual names; becomes the next one
};

/// What a LayerCommunicator needs of memory: activations of the compute dtype in symmetric memory, on both
/// sides of a boundary. One is used for all boundaries of a kind.
class BoundaryBuffers {
 public:
  /// Collective: allocates for `max_rows` rows on both sides.
  BoundaryBuffers(Communicator& communicator, std::size_t max_rows, std::size_t hidden,
                  const DecoderOptions& options);

  /// out = the residual that the boundary makes, normed. Appends to `times`, unless it is null, when what is
  /// timed began and ended. Every rank crosses, also with no rows of its own. `boundary` has a `finish`.
  void cross(LayerCommunicator& layers, const Boundary& boundary, const Crossing& crossing, StepTimes* times);

 private:
  struct Tensors {
    Tensor in;
    Tensor out;
    Tensor residual;
  };
  void cross_apart(LayerCommunicator& layers, const Boundary& boundary, const RowPlan& rows,
                   const Tensors& tensors, const Epilogue& epilogue, StepTimes& times);
  template <class Work>
  void timed(std::vector<CommInterval>& intervals, const Work& work) const {
    if (hold_) hold_();
    const auto begin = Clock::now();
    work();
    intervals.push_back({begin, Clock::now()});
    if (hold_) hold_();
  }

  Grid grid_;
  std::size_t hidden_;
  Precision precision_;
  Algorithm algorithm_;
  bool norms_apart_;
  std::function<void()> hold_;
  SymmetricBuffer in_;
  SymmetricBuffer out_;
};

}  // namespace mixcomm::runner
