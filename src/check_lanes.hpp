// The rules of DeviceLanesOptions.
#pragma once

#include "mixcomm/device/lanes.hpp"

namespace mixcomm {

/// `options` with nothing left to choose; `most`: lanes that the device has room for; `members`: ranks of the
/// team. Throws InvalidArgument with the values, the rule and the way out.
void check_lanes(const DeviceLanesOptions& options, int most, int members);

}  // namespace mixcomm
