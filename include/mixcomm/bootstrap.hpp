// How ranks find each other. A bootstrap is needed while communicators are made and memory is allocated; the
// operations themselves never use it.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mixcomm/host_sharing.hpp"  // IWYU pragma: export
#include "mixcomm/hosts.hpp"         // IWYU pragma: export
#include "mixcomm/meeting.hpp"       // IWYU pragma: export
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

struct Survivors;
class Transport;

/// One rank's end of the rendezvous: the meeting of all ranks, and what those of one host share. All ranks
/// make the same calls in the same order.
class Bootstrap : public Meeting, public HostSharing {
 public:
  /// On which hosts the ranks run. Collective, at the first call; throws what exchange() does, SystemError.
  virtual Hosts hosts() { return Hosts::one(world()); }

  /// Where ranks are on several hosts: the ranks of this host as a bootstrap of their own, in the same order;
  /// and what carries data between the memory of hosts, null where nothing does (NCCL joins GPUs). Else null.
  /// They live as long as this. Collective, at the first call.
  virtual Bootstrap* own_host() { return nullptr; }
  virtual Transport* transport() { return nullptr; }

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
