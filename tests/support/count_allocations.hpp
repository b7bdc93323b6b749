// For programs that are linked with count_allocations.cpp: how often memory is asked for.
#pragma once

#include <cstddef>

namespace mixcomm::test {

/// How often the calling thread has called operator new.
[[nodiscard]] std::size_t allocations();

}  // namespace mixcomm::test
