// Which algorithm `automatic` runs. A static rule; what it rests on is measured in docs/performance.md.
#include <fmt/format.h>

#include "call.hpp"
#include "mixcomm/plan.hpp"

namespace mixcomm {
namespace {

/// one_shot waits once, but each rank of a TP team sums the same rows again: it reads tp times what two_shot reads. Up to
/// this many bytes that costs less than a second wait.
constexpr std::size_t worth_a_wait_bytes = std::size_t{48} << 10U;

/// What one rank reads in one_shot. The tensor with all rows, once per rank that has a part of its sum.
std::size_t bytes_read(Op op, int tp, std::size_t bytes) {
  const bool sums_over_tp = shape_of(op).team != TeamKind::dp;
  return bytes * static_cast<std::size_t>(sums_over_tp ? tp : 1);
}

}  // namespace

Algorithm choose(Op op, int tp, int /*dp*/, std::size_t bytes) {
  return bytes_read(op, tp, bytes) <= worth_a_wait_bytes ? Algorithm::one_shot : Algorithm::two_shot;
}

std::string why_chosen(Op op, int tp, int dp, std::size_t bytes) {
  const std::size_t read = bytes_read(op, tp, bytes);
  if (choose(op, tp, dp, bytes) == Algorithm::one_shot)
    return fmt::format("a rank reads {} bytes, at most {}: less than a second wait costs", read, worth_a_wait_bytes);
  return fmt::format("one_shot would read {} bytes per rank, more than {}: a second wait costs less", read, worth_a_wait_bytes);
}

}  // namespace mixcomm
