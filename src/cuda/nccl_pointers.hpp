// The kernel that reads where NCCL 2.28, which has no function for it on the host, has mapped a window.
#pragma once

namespace mixcomm::cuda {

/// Takes a ncclWindow_t, an int: the number of ranks, and a void** in device memory: where each rank's window
/// begins goes there, by rank. One block of max_ranks threads.
[[nodiscard]] void* lsa_pointers_kernel();

}  // namespace mixcomm::cuda
