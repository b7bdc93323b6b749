// How many bytes an operation must move.
#pragma once

#include <cstddef>

#include "mixcomm/communicator.hpp"

namespace mixcomm::tools {

/// Bytes that each rank must receive (and send) at the least, on average: of a reduce-scatter over the TP
/// ranks of a block, (tp-1)/tp * B/dp, then an all-gather over all n ranks, (n-1)/n * B; for the scattering
/// operations the same backwards. `bytes` B are those of the tensor with all rows. An operation over one team
/// has the other of size 1, so this is 2(n-1)/n * B for all_reduce and (n-1)/n * B for all_gather and
/// reduce_scatter, as nccl-tests has it.
[[nodiscard]] constexpr double wire_bytes(Op op, int tp, int dp, std::size_t bytes) {
  if (op == Op::all_reduce) dp = 1;
  if (op == Op::all_gather || op == Op::reduce_scatter) tp = 1;
  const double t = tp;
  const double d = dp;
  const auto all = static_cast<double>(bytes);
  return (t - 1) / t * all / d + (t * d - 1) / (t * d) * all;
}

}  // namespace mixcomm::tools
