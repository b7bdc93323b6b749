// Inputs of small integers, and the exact results that operations make of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "measure/bench_cells.hpp"
#include "mixcomm/mixcomm.hpp"

namespace mixcomm::tools {

/// Random integers -4 .. 4. Every rank's input is a stretch of them, from another place in every round: so
/// any rank knows all inputs, and what an earlier round left behind is wrong.
class ExactInputs {
 public:
  /// `most_bytes`: of the largest tensor.
  ExactInputs(DType dtype, std::size_t most_bytes);

  /// What rank `rank` passes in, as many elements as it likes of most_bytes.
  [[nodiscard]] const std::byte* of(int rank, std::uint64_t round) const;

  /// Says which element of what rank `grid.rank()` got is not the exact result, or "". `out`: of the cell's
  /// row counts.
  [[nodiscard]] std::string wrong(const Cell& cell, const Grid& grid, std::size_t hidden, std::uint64_t round,
                                  const std::byte* out) const;

  /// All that `out` is to be.
  [[nodiscard]] std::vector<std::byte> results(const Cell& cell, const Grid& grid, std::size_t hidden,
                                               std::uint64_t round) const;

 private:
  DType dtype_;
  std::vector<std::int8_t> values_;
  std::vector<std::byte> elements_;  ///< the same in `dtype`
};

}  // namespace mixcomm::tools
