// How a subcommand gets its ranks.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "mixcomm/bootstrap.hpp"
#include "tools/command/options.hpp"

namespace mixcomm::tools {

struct RankOptions {
  int world = 1;
  bool processes = false;  ///< of this command, else threads; of no effect under a launcher
  Milliseconds timeout = default_timeout;
};

struct RanksResult {
  Json value;          ///< what fn returned on rank 0; under a launcher, on this rank
  bool prints = true;  ///< false on the ranks of a launcher that are not rank 0
};

/// Runs fn on every rank: as the one rank that `mixcomm run`, torchrun, mpirun or srun made of this process,
/// else as threads, or as processes that this one starts. `fn` should return the same on every rank, so that
/// all end with one exit code. Throws what the first rank to fail threw, or an Error that says how its
/// process ended; InvalidArgument if a launcher started another number of ranks.
[[nodiscard]] RanksResult run_ranks(const RankOptions& options, const std::function<Json(Bootstrap&)>& fn);

/// The launcher's number of ranks; 0 without one.
[[nodiscard]] int launched_world();

/// False on the ranks of a launcher that are not rank 0.
[[nodiscard]] bool this_process_prints();

}  // namespace mixcomm::tools
