// How the ranks of a job come together: at its start, and again when some have been lost.
#pragma once

#include <vector>

#include "bootstrap/star.hpp"
#include "death_watch.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm {

/// What a rank knows before it meets the others. All numbers are those that the launcher gave.
struct Appointment {
  LaunchInfo info;
  RankSet absent = 0;                 ///< who will not come
  const DeathWatch* watch = nullptr;  ///< who need not be waited for any longer, if it is known
  Milliseconds timeout = default_timeout;
};

struct Met {
  std::vector<int> members;  ///< who has come, ascending
  Star star;                 ///< in which the members are numbered from 0
};

/// Collective over the ranks that are not absent. The first of them listens, and says who takes part. Ranks
/// prove to it that they know the secret (a keyed hash over both sides' nonces), and it to them. Throws
/// Timeout, naming who did not come, Disagreement, SystemError.
[[nodiscard]] Met meet(const Appointment& appointment);

}  // namespace mixcomm
