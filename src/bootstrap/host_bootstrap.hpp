// The ranks of one host, out of a meeting of ranks on several, as a bootstrap of their own.
#pragma once

#include <memory>

#include "mixcomm/bootstrap.hpp"

namespace mixcomm {

/// Collective over `whole`, whose ranks are on `hosts`. They meet at a Unix socket of their host, for
/// processes of this user, and have connections of their own from then on: hosts need not make the same
/// steps. Errors name ranks as this bootstrap counts them. Throws what exchange() does, on every rank.
[[nodiscard]] std::unique_ptr<Bootstrap> bootstrap_host(Meeting& whole, const Hosts& hosts,
                                                        Milliseconds timeout);

}  // namespace mixcomm
