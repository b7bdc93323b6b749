// What `mixcomm tune` measures, and the steps of a table that come of it, on either backend.
#pragma once

#include <cstddef>
#include <vector>

#include "measure/bench_cells.hpp"

namespace mixcomm::tools {

/// The simpler operation that runs the same body on the same ranks; `op` itself where there is none. Where tp
/// or dp is 1, the fused operations are the simpler ones again.
[[nodiscard]] Op alias_of(Op op, int tp, int dp);

struct Sweep {
  int tp = 2;
  int dp = 1;
  std::size_t hidden = 2048;  ///< 4 KiB rows
  DType dtype = DType::bf16;
  std::size_t most_bytes = 0;  ///< of the largest tensor
  std::size_t factor = 4;      ///< from one size to the next
};

/// One point of the sweep: an operation on a tensor of a size.
struct SweepPoint {
  Cell cell;  ///< without variants
  std::size_t bytes = 0;
};

/// Every operation that has a body of its own, in each kind of memory, at each size, the smallest first. No
/// size comes twice: a row for each DP rank is the least.
[[nodiscard]] std::vector<SweepPoint> points_of(const Sweep& sweep);

/// Takes in what was measured of one operation and kind of memory, the smallest size first.
class ChoiceMaker {
 public:
  /// Of the candidates, each has an algorithm that tables may name.
  ChoiceMaker(Op op, bool symmetric, std::vector<Variant> candidates);

  /// `us`: of each candidate. The quickest one is taken up where it pays by 3 %: less is noise. Between two
  /// sizes a step ends in the middle, as sizes go.
  void add(std::size_t bytes, const std::vector<double>& us);
  [[nodiscard]] TuningTable::Choice finish() const;

 private:
  [[nodiscard]] TuningTable::Step step(std::uint64_t up_to_bytes) const;

  TuningTable::Choice choice_;
  std::vector<Variant> candidates_;
  std::size_t best_ = 0;
  std::size_t last_bytes_ = 0;
};

/// Adds a choice, and the same for the simpler operation that is one with it.
void add_choice(TuningTable& table, TuningTable::Choice choice);

}  // namespace mixcomm::tools
