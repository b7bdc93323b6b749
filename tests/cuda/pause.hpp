// A rank that pauses and resumes, of ranks as streams and of ranks as processes.
#pragma once

#include <string>

#include "cuda/support.hpp"

namespace mixcomm::test {

/// Collective: a captured graph and direct calls before and after pauses, all results checked; the memory
/// goes, and comes again at the same addresses, zeroed. Returns what is wrong, or "".
[[nodiscard]] std::string pause_and_resume(Bootstrap& bootstrap, const CommunicatorOptions& options);

}  // namespace mixcomm::test
