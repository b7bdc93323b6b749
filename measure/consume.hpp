// What a caller does with a result.
#pragma once

#include <cstddef>

namespace mixcomm::tools {

/// Reads memory, a word of each cache line: the next call then finds it where callers leave it, in the cache
/// of the rank whose result it is.
inline void consume(const std::byte* memory, std::size_t bytes) {
  constexpr std::size_t line = 64;
  for (std::size_t i = 0; i < bytes; i += line) (void)*static_cast<const volatile std::byte*>(memory + i);
}

}  // namespace mixcomm::tools
