// A part of the ranks as a bootstrap of their own.
#pragma once

#include <memory>

#include "mixcomm/bootstrap.hpp"
#include "mixcomm/layout.hpp"

namespace mixcomm {

/// The ranks of this rank's team of that kind, by member. All ranks of `whole` make the same calls, each on
/// its own team's; each step is one of `whole`, so that a rank that is missing anywhere is missed by all.
/// Errors name ranks as `whole` counts them, and it is `whole` that survivors are asked of.
/// `whole` must outlive it.
[[nodiscard]] std::unique_ptr<Bootstrap> team_bootstrap(Bootstrap& whole, Span span);

}  // namespace mixcomm
