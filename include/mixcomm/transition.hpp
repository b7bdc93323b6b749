// Which collective belongs between two layouts: found by search over what each operation does to a layout, so
// there is no table of cases to get wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/communicator.hpp"
#include "mixcomm/cost.hpp"
#include "mixcomm/layout.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// The ranks of an operation: rank r's are { first + m * stride : 0 <= m < tp * dp }, as a grid of tp x dp.
/// With stride 1 and tp * dp = world this is a grid of all ranks.
struct PlanGrid {
  int stride = 1;
  int tp = 1;
  int dp = 1;

  [[nodiscard]] constexpr Span span() const { return {stride, stride * tp * dp}; }
  [[nodiscard]] constexpr bool is_world(int world) const { return stride == 1 && tp * dp == world; }
  friend constexpr bool operator==(const PlanGrid&, const PlanGrid&) = default;
};

/// "4x2", or "2x1 of ranks 2 apart"
[[nodiscard]] std::string to_string(const PlanGrid& grid);

/// One thing that is done.
struct Step {
  enum class Kind : std::uint8_t {
    collective,  ///< `op` on `grid`
    slice,       ///< of the rows, only those that the next layout has; sends nothing
    keep_one,  ///< of ranks that have the same value one keeps it, the others clear theirs, so that it can be
               ///< summed with what else is owed; sends nothing
    gather_columns,  ///< an all_gather of `grid` in which each member's block has its columns of the same
                     ///< rows; puts the columns side by side
  };
  Kind kind = Kind::collective;
  Op op = Op::all_reduce;
  PlanGrid grid{};  ///< of what communicates
  Spread before{};
  Spread after{};

  [[nodiscard]] bool communicates() const { return kind == Kind::collective || kind == Kind::gather_columns; }
};

/// "all_reduce_all_gather", "slice", ...
[[nodiscard]] std::string_view name(const Step& step);

/// What one step of the model brings to a boundary; what a prediction is made for.
struct Traffic {
  std::vector<std::size_t> rows;  ///< per DP rank; empty: 16 each
  std::size_t row_bytes = 8192;
  DType dtype = DType::bf16;  ///< partial sums cross nodes in fp32
};

/// What a sequence of operations takes.
struct Cost {
  int collectives = 0;
  double us = 0;              ///< predicted
  double bytes_per_rank = 0;  ///< received, on average
  int local_steps = 0;
  int split_groups =
      0;  ///< collectives whose TP groups lie on several nodes: taken where nothing else leads there

  friend Cost operator+(const Cost& a, const Cost& b) {
    return {a.collectives + b.collectives, a.us + b.us, a.bytes_per_rank + b.bytes_per_rank,
            a.local_steps + b.local_steps, a.split_groups + b.split_groups};
  }
};

/// What happens between two layouts.
struct Transition {
  Layout from;
  Layout to;
  std::vector<Step> steps;  ///< empty: nothing to do
  Cost cost;
  Cost two_calls;  ///< of today's way: each fused operation as two
  std::string why;
};

struct PlanOptions {
  Traffic traffic{};
  CostModel model{};
};

/// The shortest sequence of operations that turns `from` into `to`: the fewest collectives; of those, the one
/// that is predicted to take the least time; of those, the fewest local steps. A pure function: ranks that
/// call it with the same values get the same.
///
/// A sum over a team of one rank is complete, so attn_tp = 1, attn_dp = 1 and so on give the smaller
/// operations, or none. Throws InvalidArgument for layouts that cannot be (see spread_of) and for a complete
/// value that is to become partial; Unsupported for context-parallel attention.
[[nodiscard]] Transition collective_for(const Layout& from, const Layout& to, const Parallelism& parallelism,
                                        const PlanOptions& options = {});

/// Checks each step of a transition against what its operation does to a layout: nothing that is owed is left
/// out, and nothing is summed twice. Throws InvalidArgument naming the step and the rule.
void check(const Transition& transition, const Parallelism& parallelism);

/// What a step makes of step.before; `broken` is the rule that it breaks, or null. Of local steps, step.after
/// says what they are to give.
struct StepOutcome {
  Spread after{};
  const char* broken = nullptr;
};
[[nodiscard]] StepOutcome outcome(const Step& step, int world);

/// What the steps cost for some traffic; and as two operations where they are fused.
[[nodiscard]] Cost cost_of(const std::vector<Step>& steps, const Parallelism& parallelism,
                           const PlanOptions& options);
[[nodiscard]] std::vector<Step> in_two_calls(const std::vector<Step>& steps);

/// The operation of a collective step, with the bytes that it has to do with.
[[nodiscard]] Operation operation_of(const Step& step, const Parallelism& parallelism,
                                     const PlanOptions& options);

}  // namespace mixcomm
