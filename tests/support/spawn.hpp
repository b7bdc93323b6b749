// Ranks for tests: as threads of this process, or as processes forked from it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "mixcomm/bootstrap.hpp"

namespace mixcomm::test {

enum class Ranks { threads, processes };

/// Runs fn on every rank and returns what it returned, by rank: "" is success by convention. An exception
/// becomes its message behind its type ("Timeout: ..."); a rank killed by a signal becomes "killed by signal
/// N".
std::vector<std::string> spawn(Ranks kind, int world, const std::function<std::string(Bootstrap&)>& fn,
                               Milliseconds timeout = default_timeout);

/// All that is not "", a line each.
std::string failures(const std::vector<std::string>& results);

}  // namespace mixcomm::test
