// The decision layer: which collective belongs between two layouts, and which algorithm runs it. Pure host
// code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/communicator.hpp"

namespace mixcomm {

/// How rows are spread over the grid.
enum class Rows : std::uint8_t {
  replicated,  ///< every rank holds the rows of all DP ranks, sum(rows)
  by_dp_rank,  ///< rank (t, d) holds the rows of DP rank d, rows[d]
};

/// Which team still owes the sum: the value is the sum of what its members hold.
enum class Partial : std::uint8_t { none, tp, dp, world };

/// How an activation lies on the grid.
struct Layout {
  Rows rows = Rows::by_dp_rank;
  Partial partial = Partial::none;

  friend constexpr bool operator==(const Layout&, const Layout&) = default;
};

[[nodiscard]] std::string to_string(const Layout& layout);

/// What happens between two layouts.
struct Transition {
  /// One step: a collective, or (`slice`) taking one's own block of replicated rows, which sends nothing.
  struct Step {
    bool slice = false;
    Op op = Op::all_reduce;  ///< unless slice
  };
  Layout from;
  Layout to;
  std::vector<Step> steps;  ///< empty: nothing to do
  std::string why;
};

[[nodiscard]] std::string_view name(const Transition::Step& step);

/// The shortest sequence of operations that turns `from` into `to` on a tp x dp grid. A sum over a team of
/// one rank is complete, and rows of one DP rank are replicated, so tp = 1 and dp = 1 give the smaller
/// operations or none. Throws InvalidArgument for pairs that no communication can bridge: a sum over ranks
/// that hold different rows, or a complete value asked to become partial.
[[nodiscard]] Transition collective_for(const Layout& from, const Layout& to, int tp, int dp);

/// Runs a transition. `in` and `out` have the shapes of its layouts; with no step to take, `in` is copied to
/// `out` unless they are the same memory. Same rules as the operations of Communicator.
void run(Communicator& communicator, const Transition& transition, ConstTensor in, Tensor out, RowCounts rows,
         CallOptions options = {});

/// What the choice of an algorithm depends on: all of it shared by the ranks of a call.
struct Circumstances {
  Op op = Op::all_reduce_all_gather;
  int tp = 1;
  int dp = 1;
  std::size_t bytes = 0;   ///< of the tensor with all rows: sum(rows) x hidden; for all_reduce, of the tensor
  bool symmetric = false;  ///< that tensor is memory from allocate()
  bool crowded = false;    ///< more ranks than processors, so that a wait costs a change of threads
  BackendKind backend = BackendKind::cpu;
  const TuningTable* tuning = nullptr;  ///< what was measured, where anything was
};

/// The algorithm that `automatic` runs.
[[nodiscard]] Algorithm choose(const Circumstances& circumstances);

/// Why, in a sentence.
[[nodiscard]] std::string why_chosen(const Circumstances& circumstances);

}  // namespace mixcomm
