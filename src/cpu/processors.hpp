// Which processors the ranks of a host have, and how many threads each may use.
#pragma once

#include <sched.h>

#include <span>
#include <string>
#include <vector>

#include "mixcomm/communicator.hpp"
#include "mixcomm/meeting.hpp"

namespace mixcomm::cpu {

/// What a rank says of itself. Passive data that is sent as it is.
struct RankProcessors {
  cpu_set_t usable{};  ///< where the thread that makes the communicator may run
  int threads = 0;     ///< how many its user asks for; 0: as many as it owns cores
  int most = 0;        ///< OMP_NUM_THREADS; 0: not set
};

/// Of the calling thread.
[[nodiscard]] RankProcessors own_processors(const CpuOptions& options);

/// What all ranks say, by rank. Collective.
[[nodiscard]] std::vector<RankProcessors> exchange_processors(Meeting& meeting, const RankProcessors& mine);

/// The core of a processor, named by the first of the processors that share it.
using CoreOf = int (*)(int processor);
/// The core as the system says it; the processor itself where the system says nothing.
[[nodiscard]] int core_of(int processor);

/// How many processors' time the control group grants; 0: there is no limit.
[[nodiscard]] double processor_limit();

/// Processors that the ranks may run on together: ranks may be bound to one each, and a container may have
/// fewer than it sees. With more ranks than those they are crowded.
[[nodiscard]] int usable_processors(std::span<const RankProcessors> ranks, double limit = processor_limit());

struct ThreadShare {
  int threads = 1;
  std::string why;  ///< "16 cores, which 2 ranks share"
};

/// By rank, how many threads it uses at most, with the one that calls: as many as were asked for; else those
/// cores that it may run on, each divided among the ranks that may, but no more than OMP_NUM_THREADS. With
/// OMP_NUM_THREADS, processors count, not cores.
[[nodiscard]] std::vector<ThreadShare> threads_of(std::span<const RankProcessors> ranks,
                                                  CoreOf core = core_of, double limit = processor_limit());

}  // namespace mixcomm::cpu
