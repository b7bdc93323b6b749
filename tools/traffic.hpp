// How many bytes an operation must move.
#pragma once

#include "mixcomm/cost.hpp"

namespace mixcomm::tools {

using mixcomm::wire_bytes;

}  // namespace mixcomm::tools
