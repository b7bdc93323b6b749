// Messages that are longer than a rendezvous takes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/bootstrap.hpp"

namespace mixcomm::tools {

/// All-gather of messages of any length, by rank: Bootstrap::exchange() in pieces. Collective.
[[nodiscard]] std::vector<std::string> exchange_long(Bootstrap& bootstrap, std::string_view step,
                                                     std::string_view mine);

}  // namespace mixcomm::tools
