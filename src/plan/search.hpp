// What the search for the shortest way looks at. For tests; the library calls collective_for().
#pragma once

#include <vector>

#include "mixcomm/transition.hpp"

namespace mixcomm {

/// All divisors of the number of ranks, ascending.
[[nodiscard]] std::vector<int> all_widths(const Parallelism& parallelism);

/// Of those, the ones that teams of this mapping have, and what two of them have in common or make together
/// (greatest common divisors, least common multiples). 4,096 ranks may have 50 divisors, and a search over
/// all of them takes minutes. On no mapping of up to max_ranks ranks does a way over all of them cost less.
[[nodiscard]] std::vector<int> team_widths(const Parallelism& parallelism);

/// collective_for(), as a search over layouts whose width is one of `widths`: that many neighbours have each
/// other's rows.
[[nodiscard]] Transition collective_over(const std::vector<int>& widths, const Layout& from, const Layout& to,
                                         const Parallelism& parallelism, const PlanOptions& options);

}  // namespace mixcomm
