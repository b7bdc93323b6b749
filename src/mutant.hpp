// What the tests of the tests can break: MIXCOMM_MUTANTS is 1 in the library that is built to be broken. Else
// there is no mutant, and the questions are constant.
#pragma once

#include <cstdint>

#include "mixcomm/portability.hpp"

#if !defined(MIXCOMM_MUTANTS)
#error "what includes this is compiled twice: name it among mixcomm_mutable_sources in src/CMakeLists.txt"
#endif

namespace mixcomm {

enum class Mutant : std::uint8_t {
  none,
  no_first_barrier,     ///< the first barrier of each pass is left out
  no_second_barrier,    ///< the second one
  one_workspace,        ///< workspaces do not alternate from pass to pass
  one_slice,            ///< CPU: the lanes of a call work in the same slice of the workspace
  data_not_waited_for,  ///< CUDA: packets and lines are read without a look at their numbers
  no_greeting,          ///< CUDA: ranks that exchange no data do not greet each other
  // Epilogues:
  residual_of_each_rank,   ///< the residual is added once for each TP rank
  norm_before_residual,    ///< what is normed has no residual yet, which is added to the result
  mean_over_padded_width,  ///< the mean of squares is over columns rounded up to a power of two
  scale_of_another_row,    ///< scales are stored one row further
  rows_beyond_are_normed,  ///< the row behind the last one of the last block is taken for one
};

#if MIXCOMM_MUTANTS
inline constexpr bool has_mutants = true;
/// The one that is on: tests/support/mutants.cpp.
[[nodiscard]] Mutant current_mutant();
#else
inline constexpr bool has_mutants = false;
[[nodiscard]] constexpr Mutant current_mutant() {
  return Mutant::none;
}
#endif

/// The mutant of one call, as kernels are given it.
struct MutantSwitch {
#if MIXCOMM_MUTANTS
  Mutant which = Mutant::none;
  [[nodiscard]] MIXCOMM_HD bool is(Mutant mutant) const {
    return which == mutant;
  }
  static MutantSwitch current() {
    return {current_mutant()};
  }
#else
  [[nodiscard]] MIXCOMM_HD static constexpr bool is(Mutant /*mutant*/) {
    return false;
  }
  static constexpr MutantSwitch current() {
    return {};
  }
#endif
};

}  // namespace mixcomm
