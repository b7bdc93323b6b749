// Transitions on all ranks at once, in integers: each operation as its definition says, apart from the
// library.
#pragma once

#include "verify/toy_ranks.hpp"

namespace mixcomm::verify {

/// What an engine could get wrong besides its plan: for tests of the checker.
struct Faults {
  bool pads_summed = false;       ///< pad rows go into sums as modules left them
  bool equal_counts = false;      ///< rows are scattered as if all DP ranks had equally many
  bool first_rows = false;        ///< a slice takes the first rows, whoever's they are
  bool columns_reversed = false;  ///< vocabulary shards are put side by side in the wrong order
  bool nothing_kept = false;      ///< keep_one keeps all: each rank brings the value that they have in common
};

/// `toy` must outlive it; its rows count.
[[nodiscard]] Exchange symbolic_exchange(const ToyCase& toy, const Faults& faults = {});

}  // namespace mixcomm::verify
