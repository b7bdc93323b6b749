// How ranks find each other. A bootstrap is needed while communicators are made and memory is allocated; the
// operations themselves never use it.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/fd.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

using Milliseconds = std::chrono::milliseconds;

/// Every set-up step ends within this time unless told otherwise.
inline constexpr Milliseconds default_timeout{30'000};

struct Survivors;

/// One rank's end of the rendezvous. All ranks make the same calls in the same order.
class Bootstrap {
 public:
  virtual ~Bootstrap() = default;

  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int world() const = 0;

  /// All-gather of one small message: returns every rank's `mine`, by rank. `step` says in errors what the
  /// ranks were doing. `mine` holds at most 8192 bytes, so that everyone's fit into one answer. Throws
  /// InvalidArgument for a longer one, before anything is sent; Timeout (naming the ranks that did not come),
  /// PeerGone (as soon as one has left), Disagreement (ranks in different steps), and then the same at once
  /// from every later step: a failed set-up stays failed.
  virtual std::vector<std::string> exchange(std::string_view step, std::string_view mine) = 0;

  /// Zeroed memory that all ranks of this host map, page aligned; it has no name in any file system.
  /// Collective. The mapping lives as long as the pointer. Throws Disagreement if ranks ask for different
  /// sizes, SystemError, Timeout; Unsupported if ranks are on several hosts.
  virtual std::shared_ptr<std::byte> share_memory(std::size_t bytes) = 0;

  /// Gives every rank copies of the open file that each rank brings: by rank, `mine` included, in descriptors
  /// of its own. `mine` stays the caller's; below 0 a rank gives none, and its place is invalid. Collective.
  /// Every rank succeeds, or every rank throws: SystemError, Timeout (naming the ranks from which nothing
  /// came), Disagreement (ranks in different steps); Unsupported if ranks are on several hosts.
  virtual std::vector<Fd> exchange_descriptors(std::string_view step, int mine) = 0;

  /// By rank, what can be polled for the end of its process (a pidfd: readable once it has ended). Invalid
  /// where the system has none; empty where ranks are no processes of their own. They live as long as this
  /// bootstrap. Collective, at the first call. Throws what exchange_descriptors() does.
  virtual std::span<const Fd> processes() = 0;

  /// By which number errors name a rank of this bootstrap, and survivors() takes it: its own, unless this is
  /// the bootstrap of a team of another one's ranks, which has the number then.
  [[nodiscard]] virtual int rank_in_whole(int rank) const { return rank; }

  /// After ranks were lost, those that are left meet again, and count anew, in the same order. Collective
  /// over the ranks that are left; `lost` are those to go on without, as Timeout::missing() names them
  /// (whose process is known to have ended is left out as well). They meet where all met at first, so on one
  /// host. This bootstrap is only to be destroyed then, or asked again.
  /// Throws Timeout naming, in this bootstrap's numbers, who did not come: ask again with these in `lost`,
  /// too. InvalidArgument, Disagreement (for a rank that the others go on without), SystemError; Unsupported
  /// by a bootstrap that cannot.
  virtual Survivors survivors(std::span<const int> lost);
};

struct Survivors {
  std::unique_ptr<Bootstrap> bootstrap;  ///< theirs
  std::vector<int> ranks;  ///< by rank in it, the rank in the bootstrap that was asked, ascending
};

/// Ranks as threads of this process: one bootstrap per rank, each to be used by one thread. Throws
/// InvalidArgument for no ranks, or a timeout that is not from 1 ms to 1 year.
[[nodiscard]] std::vector<std::unique_ptr<Bootstrap>> bootstrap_threads(
    int world, Milliseconds timeout = default_timeout);

/// Runs fn(bootstrap) on `world` threads, one a rank, and joins them. When fn throws on a rank, set-up fails
/// at once for those that wait for it: a Timeout, "rank R left set-up with: ...". Rethrown is the first
/// exception in time that is no Timeout, which is the cause; else the first Timeout.
void run_threads(int world, const std::function<void(Bootstrap&)>& fn,
                 Milliseconds timeout = default_timeout);

/// What a launcher told this process, or nothing where none did.
struct LaunchInfo {
  std::string launcher;  ///< "mixcomm run", "torchrun", "Open MPI", "MPICH" (or Intel MPI), "Slurm", "Flux"
  int rank = 0;
  int world = 1;
  std::string host;  ///< where rank 0 listens
  int port = 0;      ///< TCP port of rank 0
  std::string
      secret;  ///< MIXCOMM_SECRET, known to the ranks of this job alone. "": see bootstrap_processes()
};

/// Reads MIXCOMM_RANK ... / RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT / OMPI_COMM_WORLD_* / PMI_* / SLURM_*
/// / FLUX_* / PMIX_* (whose launchers do not say how many ranks there are: MIXCOMM_WORLD_SIZE does).
/// `launcher` is empty if there is none. Where several launchers' variables are set, the innermost launcher
/// counts, which the variables of this process's ancestors tell; where they do not tell, launchers that
/// contradict each other are refused. MIXCOMM_LAUNCHER (mixcomm, openmpi, torchrun, slurm, flux, pmi, pmix,
/// none) says which one counts. Throws InvalidArgument, naming the variables, where one is missing or wrong.
[[nodiscard]] LaunchInfo launch_info();

/// Ranks as processes: rank 0 listens, the others connect. With a secret, on host:port, where each side
/// proves to the other that it knows it (16 random bytes: openssl rand -hex 16). Without one, on a Unix
/// socket of this host, for processes of this user alone. Throws Timeout naming the missing ranks,
/// SystemError for a port in use, Disagreement for a wrong secret or world size, InvalidArgument for a
/// timeout that is not from 1 ms to 1 year, and for a host that is another one where there is no secret.
[[nodiscard]] std::unique_ptr<Bootstrap> bootstrap_processes(const LaunchInfo& info,
                                                             Milliseconds timeout = default_timeout);

}  // namespace mixcomm
