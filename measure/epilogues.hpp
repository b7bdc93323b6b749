// The epilogues that `mixcomm bench` measures, and what engines run in their place.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "measure/bench_cells.hpp"
#include "measure/exact_inputs.hpp"
#include "mixcomm/mixcomm.hpp"
#include "verify/device.hpp"

namespace mixcomm::tools {

/// Memory of one rank's epilogues on its device, with known contents: a residual of small integers for each
/// DP rank, and a weight.
class Epilogues {
 public:
  /// `device` must outlive this.
  Epilogues(verify::Device& device, const Grid& grid, std::size_t hidden, DType dtype,
            std::size_t most_bytes);

  /// The epilogue of a cell, on tensors of so many rows of this DP rank; nothing for none.
  [[nodiscard]] Epilogue of(const Cell& cell, std::size_t own_rows) const;

  /// The dtype of its output.
  [[nodiscard]] DType out_dtype(const Cell& cell) const;

  /// Tensors of a call in separate steps.
  struct Tensors {
    ConstTensor from;  ///< where the input lies to which the residual is still to be added; may be `in`
    Tensor in;
    Tensor sums;  ///< of the shape of `out`; with FP8 other memory, which has room for the dtype of `in`
    Tensor out;   ///< of out_dtype()
  };
  /// A call as engines make it today: the operation, between the steps of the epilogue by themselves. Where
  /// rows are gathered the residual is added on one TP rank before it, the own rows are copied for the next
  /// residual, and all rows are normed; else one step adds and norms behind it.
  void run_separately(Communicator& communicator, const Cell& cell, const Tensors& tensors) const;

  /// What is not as it has to be behind a call in round `round`, or "". `out`: in host memory.
  [[nodiscard]] std::string wrong(const Cell& cell, const ExactInputs& inputs, std::uint64_t round,
                                  const std::byte* out) const;

 private:
  [[nodiscard]] std::size_t own_rows(const Cell& cell) const;
  [[nodiscard]] ConstTensor residual_of(int d, std::size_t rows) const;

  verify::Device& device_;
  Grid grid_;
  std::size_t hidden_;
  DType dtype_;
  std::vector<std::vector<std::byte>> residuals_;  ///< by DP rank, in host memory
  std::vector<std::byte> weights_;                 ///< in host memory
  std::shared_ptr<std::byte> residual_;            ///< this DP rank's, on the device, as all that follows
  std::shared_ptr<std::byte> kept_;
  std::shared_ptr<std::byte> weight_;
  std::shared_ptr<std::byte> scales_;
};

}  // namespace mixcomm::tools
