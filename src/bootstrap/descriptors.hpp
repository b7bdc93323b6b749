// The exchange of file descriptors between ranks that are processes of one host.
#pragma once

#include <string_view>
#include <vector>

#include "mixcomm/bootstrap.hpp"

namespace mixcomm {

/// Bootstrap::exchange_descriptors(), for ranks that are known to run on one host.
[[nodiscard]] std::vector<Fd> pass_descriptors(Bootstrap& bootstrap, std::string_view step, int mine,
                                               Milliseconds timeout);

}  // namespace mixcomm
