// The epilogues that `mixcomm bench` measures, and what engines run in their place.
#pragma once

#include <string_view>
#include <vector>

#include "measure/bench_cells.hpp"
#include "measure/exact_inputs.hpp"
#include "mixcomm/mixcomm.hpp"

namespace mixcomm::tools {

/// Memory of one rank's epilogues in host memory, with known contents: a residual of small integers for each
/// DP rank, and a weight.
class Epilogues {
 public:
  Epilogues(const Grid& grid, std::size_t hidden, DType dtype, std::size_t most_bytes);

  /// The epilogue of a cell; nothing for none.
  [[nodiscard]] Epilogue of(const Cell& cell);

  /// The dtype of its output.
  [[nodiscard]] DType out_dtype(const Cell& cell) const;

  /// A call as engines make it today: the operation, between the steps of the epilogue by themselves. Where
  /// rows are gathered the residual is added on one TP rank before it, the own rows are copied for the next
  /// residual, and all rows are normed; else one step adds and norms behind it.
  void run_separately(Communicator& communicator, const Cell& cell, ConstTensor in, Tensor out);

  /// What is not as it has to be behind a call in round `round`, or "".
  [[nodiscard]] std::string wrong(const Cell& cell, const ExactInputs& inputs, std::uint64_t round,
                                  const std::byte* out) const;

 private:
  [[nodiscard]] std::size_t own_rows(const Cell& cell) const;
  [[nodiscard]] ConstTensor residual_of(int d, std::size_t rows) const;

  Grid grid_;
  std::size_t hidden_;
  DType dtype_;
  std::vector<std::vector<std::byte>> residuals_;  ///< by DP rank
  std::vector<std::byte> kept_;
  std::vector<std::byte> weight_;
  std::vector<std::byte> normed_from_;  ///< with FP8: the sums that are not `out`
  std::vector<float> scales_;
};

}  // namespace mixcomm::tools
