// Which processors the ranks of a host have, and how many threads each may use.
#pragma once

#include <sched.h>

#include <span>
#include <string>
#include <vector>

#include "mixcomm/bootstrap.hpp"
#include "mixcomm/communicator.hpp"

namespace mixcomm::cpu {

/// What a rank says of itself. Passive data that is sent as it is.
struct RankProcessors {
  cpu_set_t usable{};  ///< that the thread which makes the communicator may run on
  int threads = 0;     ///< as many as its user asks for; 0: what it owns
  int most = 0;        ///< OMP_NUM_THREADS; 0: not set
};

/// Of the calling thread.
[[nodiscard]] RankProcessors own_processors(const CpuOptions& options);

/// What all ranks say, by rank. Collective.
[[nodiscard]] std::vector<RankProcessors> exchange_processors(Bootstrap& bootstrap,
                                                              const RankProcessors& mine);

/// Of which processor's core each one is a part: the first of those that share it.
using CoreOf = int (*)(int processor);
/// As the system says; each is a core of its own where it says nothing.
[[nodiscard]] int core_of(int processor);

/// The time of so many processors is granted by the control group at most; 0: there is no limit.
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
