// Which algorithm `automatic` runs. A static rule; what it rests on is measured in docs/performance.md.
#include <fmt/format.h>

#include "call.hpp"
#include "mixcomm/plan.hpp"

namespace mixcomm {
namespace {

struct Rule {
  std::size_t one_shot_bytes;  ///< one_shot up to this many bytes in all rows
};

/// one_shot waits once, but every rank reads everything; two_shot waits twice and reads each byte once. So
/// the more ranks, the earlier reading outweighs a wait.
Rule rule_for(Op op, int tp, int dp) {
  const Grid grid = grid_of(Grid::of(tp, dp, 0), shape_of(op).team);
  // Nothing is summed over a team of one: one_shot only adds a copy, but saves a wait.
  return {std::size_t{64} << 10U << (grid.world.size <= 2 ? 1U : 0U)};
}

}  // namespace

Algorithm choose(Op op, int tp, int dp, std::size_t bytes) {
  return bytes <= rule_for(op, tp, dp).one_shot_bytes ? Algorithm::one_shot : Algorithm::two_shot;
}

std::string why_chosen(Op op, int tp, int dp, std::size_t bytes) {
  const std::size_t limit = rule_for(op, tp, dp).one_shot_bytes;
  if (bytes <= limit)
    return fmt::format(
        "{} bytes in all rows are at most {}: one wait and some double reading cost less than two waits",
        bytes, limit);
  return fmt::format("{} bytes in all rows are more than {}: reading each byte once is worth a second wait",
                     bytes, limit);
}

}  // namespace mixcomm
