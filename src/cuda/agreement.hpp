// The kernel behind check_agreement.
#pragma once

#include "cuda/arguments.hpp"

namespace mixcomm::cuda {

/// Takes Arguments and RecordWords; one block of agreement_threads.
[[nodiscard]] void* agreement_kernel();
inline constexpr int agreement_threads = most_ranks * 32;

}  // namespace mixcomm::cuda
