// Where a rank runs.
#pragma once

#include <string>

namespace mixcomm {

/// Equal on two ranks that run on one host; containers of one machine count as hosts of their own unless they
/// share their name. Throws SystemError where it cannot be read for want of descriptors.
[[nodiscard]] std::string host_identity();

/// Equal on two ranks that are threads of one process, and use the same copy of this library.
[[nodiscard]] std::string process_identity();

}  // namespace mixcomm
