// Zeroed memory that several ranks map.
#pragma once

#include <cstddef>
#include <memory>

namespace mixcomm {

/// Maps `bytes` of `fd` (or anonymous memory for -1) shared; unmapped with the last pointer. Throws
/// SystemError.
[[nodiscard]] std::shared_ptr<std::byte> map_shared(std::size_t bytes, int fd);

}  // namespace mixcomm
