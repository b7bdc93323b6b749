// What `mixcomm tune`, and tune() in Python, measure: which algorithm pays where on this machine.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "mixcomm/mixcomm.hpp"

namespace mixcomm::tools {

inline constexpr std::size_t least_most_bytes = 4096;
inline constexpr std::size_t most_most_bytes = std::size_t{1} << 30U;

struct TuneOptions {
  int tp = 2;
  int dp = 1;
  BackendKind backend = BackendKind::cpu;
  double seconds = 40;                             ///< for all measurements together
  std::size_t most_bytes = std::size_t{4} << 20U;  ///< of the largest tensor
  Milliseconds timeout = default_timeout;
  bool binds = false;  ///< each rank to a processor; else they stay where they are
};

/// Called on rank 0 before each point: how many are done, of how many, and what comes now.
using TuneProgress = std::function<void(std::size_t, std::size_t, const std::string&)>;

/// Throws InvalidArgument for options that cannot be.
void check_tunable(const TuneOptions& options);

/// Rank 0's table on every rank, which all have read alike; `text` counts on rank 0 alone. Collective. Throws
/// InvalidArgument for what is no table, Disagreement.
[[nodiscard]] TuningTable agree_on(Bootstrap& bootstrap, const std::string& text);

/// On the CPU backend; measure_gpu_tuning() has the other. Collective over tp * dp ranks, which pass the
/// same: rank 0's table on every rank. Throws what check_tunable() throws, and what operations throw.
[[nodiscard]] TuningTable measure_tuning(Bootstrap& bootstrap, const TuneOptions& options,
                                         const TuneProgress& progress);

}  // namespace mixcomm::tools
