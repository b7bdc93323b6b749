// Which algorithm `automatic` runs. A static rule; what it rests on is measured in docs/performance.md.
#include <fmt/format.h>

#include "choice/gpu_choice.hpp"
#include "mixcomm/choice.hpp"

namespace mixcomm {
namespace {

constexpr std::size_t any = SIZE_MAX;

bool sums_over_tp(const Circumstances& c) {
  return shape_of(c.op).team != TeamKind::dp && c.tp > 1;
}

/// Two ranks that have several threads each, and a processor for each of these.
bool two_of_many_threads(const Circumstances& c) {
  return c.lanes > 1 && !c.crowded && c.tp == 2 && (c.dp == 1 || shape_of(c.op).team == TeamKind::tp);
}

/// one_shot waits once, but each rank copies its input, and the ranks of a TP team all sum the same rows: it
/// reads tp times what two_shot reads. This is the number of bytes up to which that costs less than
/// two_shot's second wait.
std::size_t worth_a_wait_bytes(const Circumstances& c) {
  // What is read is not taken back from the reader's cache, as it is when it is pushed there. So where
  // nothing is read twice of what is staged anyway one_shot is quicker at any size, and between two ranks
  // that have a processor each as long as one pass holds it all: with several, that two_shot stages half as
  // much counts for more. Two ranks of several threads each share what is staged out among their caches, so
  // it is the other way round: two_shot up to 1 MiB of rows; beyond one_shot, whose many passes meet once.
  if (!c.symmetric && c.tp == 1) return any;
  if (!c.symmetric && two_of_many_threads(c))
    return c.bytes > (std::size_t{1} << 20U) && !c.epilogue ? any : std::size_t{128} << 10U;
  if (!c.symmetric && c.tp == 2 && !c.crowded) return std::size_t{1} << 20U;
  if (c.crowded) return std::size_t{64} << 10U;
  if (!c.symmetric) return std::size_t{16} << 10U;
  return shape_of(c.op).body == Body::gather && !sums_over_tp(c) ? any : 0;
}

/// What one rank reads in one_shot. The tensor with all rows, once per rank that has a part of its sum.
std::size_t bytes_read(const Circumstances& c) {
  return c.bytes * static_cast<std::size_t>(sums_over_tp(c) ? c.tp : 1);
}

/// On CPUs finishing a row takes longer than summing it. Where rows are gathered over dp, every rank finishes
/// all of them in one_shot, and in two_shot each is finished once. Else TP ranks save that, which pays for a
/// wait from a row or two for each on; but two ranks with a processor each, and plain buffers, go by the
/// sums.
constexpr std::size_t rows_worth_sharing_bytes = std::size_t{32} << 10U;
Algorithm choose_to_finish(const Circumstances& c, Algorithm to_sum) {
  const OpShape shape = shape_of(c.op);
  if (shape.body == Body::gather && shape.team != TeamKind::tp && c.dp > 1) return Algorithm::two_shot;
  if (bytes_read(c) <= rows_worth_sharing_bytes) return Algorithm::one_shot;
  return c.crowded ? Algorithm::two_shot : to_sum;
}

/// Tables have what sums alone took.
Algorithm tuned_algorithm(const Circumstances& c) {
  if (c.tuning == nullptr || (c.epilogue && c.backend == BackendKind::cpu)) return Algorithm::automatic;
  return c.tuning->algorithm(c.op, c.symmetric, c.bytes);
}

}  // namespace

Algorithm choose(const Circumstances& c) {
  if (const Algorithm tuned = tuned_algorithm(c); tuned != Algorithm::automatic) return tuned;
  if (c.backend == BackendKind::cuda) return choose_on_gpus(c);
  const Algorithm to_sum = bytes_read(c) <= worth_a_wait_bytes(c) ? Algorithm::one_shot : Algorithm::two_shot;
  return c.epilogue ? choose_to_finish(c, to_sum) : to_sum;
}

LaunchShape choose_shape(const Circumstances& c, Algorithm algorithm) {
  if (c.backend != BackendKind::cuda) return {};
  const LaunchShape shape = shape_on_gpus(c, algorithm);
  if (c.tuning == nullptr) return shape;
  const TuningTable::Step tuned = c.tuning->step(c.op, c.symmetric, c.bytes);
  return tuned.algorithm == algorithm ? shape.with(tuned.shape) : shape;
}

std::string why_chosen(const Circumstances& c) {
  if (const Algorithm tuned = tuned_algorithm(c); tuned != Algorithm::automatic)
    return fmt::format("{} was quicker for {} bytes when this grid was tuned", name(tuned), c.bytes);
  if (c.backend == BackendKind::cuda) return why_on_gpus(c);
  if (c.epilogue)
    return choose(c) == Algorithm::two_shot
               ? "in two_shot each row is normed once, in one_shot by every rank that gets it"
               : fmt::format("one_shot would read {} bytes per rank to save a wait", bytes_read(c));
  if (worth_a_wait_bytes(c) == any)
    return "one_shot reads no more than two_shot writes, and what a rank has read need not be taken back "
           "from its cache";
  const std::string_view wait = c.crowded ? "with more ranks than processors, where a wait is dear"
                                          : "with a processor per rank, where a wait is cheap";
  return fmt::format("one_shot would read {} bytes per rank to save a wait: worth it up to {} bytes {}{}",
                     bytes_read(c), worth_a_wait_bytes(c), wait, c.symmetric ? ", in symmetric memory" : "");
}

}  // namespace mixcomm
