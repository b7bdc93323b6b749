// The hooks of the library that is built to be broken: what of it is broken now.
#pragma once

#include <atomic>

#include "mutant.hpp"

namespace mixcomm::test {

[[nodiscard]] std::atomic<Mutant>& broken();

}  // namespace mixcomm::test
