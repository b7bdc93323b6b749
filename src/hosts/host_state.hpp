// What the ranks of one host tell each other about the others, in memory that they share.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "cpu/shared_state.hpp"
#include "mixcomm/grid.hpp"
#include "rank_set.hpp"

namespace mixcomm {

/// Zeroed memory is a valid initial state. Ranks are those of the whole job.
struct HostState {
  /// The first failure that any rank of this host has found or been told of; each of them throws it.
  cpu::Failure failure;
  /// By rank of this host: whether it waits for other hosts. Who waits for it in turn does not blame it.
  std::array<std::atomic<std::uint32_t>, max_ranks> waits_for_hosts{};
  /// By rank of this host: for which ranks of others it has waited for half of its deadline. GPUs alone.
  std::array<std::atomic<RankSet>, max_ranks> late{};
  /// By rank of another host: when something of it came to this host last, in ms of the steady clock.
  std::array<std::atomic<std::int64_t>, max_ranks> heard_ms{};
};

}  // namespace mixcomm
