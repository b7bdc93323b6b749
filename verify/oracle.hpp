// What an operation must give, written down from its definition.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mixcomm/grid.hpp"
#include "verify/verify.hpp"

namespace mixcomm::verify {

/// Inputs and results of one case on one rank. Inputs are a function of (seed, rank, element), so that each
/// rank knows those of all without communication.
class Oracle {
 public:
  /// `c` must outlive this.
  Oracle(const Case& c, const Grid& grid);

  /// Element i of what this rank puts in, in the case's dtype.
  [[nodiscard]] float input(std::size_t i) const { return at(grid_.tp.member, grid_.dp.member, i); }

  /// Element i of block d of this rank's result.
  [[nodiscard]] float expected(int d, std::size_t i) const;

  /// The same before it is rounded for the last time.
  [[nodiscard]] float sum(int d, std::size_t i) const;

  /// Element i of the residual of block d, and of the norm's weight, in the case's dtype.
  [[nodiscard]] float residual(int d, std::size_t i) const;
  [[nodiscard]] float weight(std::size_t i) const;
  [[nodiscard]] float fixed_scale() const;

  /// What is to become of row `row` of block d.
  struct Row {
    std::vector<float> kept;           ///< for residual_out
    std::vector<float> out;            ///< without FP8
    std::vector<std::uint32_t> codes;  ///< with FP8: `out` as that
    std::vector<float> scales;
  };
  [[nodiscard]] Row finished(int d, std::size_t row) const;

  /// Elements of blocks 0 .. d-1 together.
  [[nodiscard]] std::size_t offset(int d) const { return offsets_[static_cast<std::size_t>(d)]; }

 private:
  [[nodiscard]] float at(int t, int d, std::size_t i) const;
  [[nodiscard]] float round(float x) const;
  /// The tree of neighbours over term(0), ..., term(count - 1).
  template <class Term>
  [[nodiscard]] static float tree_sum(int count, const Term& term);
  [[nodiscard]] float sum_over_tp(int d, std::size_t i) const;
  [[nodiscard]] float sum_over_dp(int t, std::size_t i) const;

  const Case& c_;
  Grid grid_;
  std::vector<std::uint64_t> streams_;  ///< a random number per rank
  std::vector<std::size_t> offsets_;
};

}  // namespace mixcomm::verify
