#include "bootstrap/deadline.hpp"

#include <fmt/format.h>

#include "mixcomm/error.hpp"

namespace mixcomm {

void check_timeout(std::chrono::milliseconds timeout) {
  constexpr std::chrono::milliseconds longest = std::chrono::hours(24 * 365);
  if (timeout <= std::chrono::milliseconds::zero() || timeout > longest)
    throw InvalidArgument(
        fmt::format("timeout is {} ms; it may be 1 to {}", timeout.count(), longest.count()));
}

}  // namespace mixcomm
