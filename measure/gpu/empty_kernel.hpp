// A kernel that does nothing: what is left of its time in a measurement is the floor of every other kernel's.
#pragma once

namespace mixcomm::tools {

/// Puts one on a cudaStream_t. `overlaps`: it may start while the kernel before it ends (programmatic
/// dependent launch, compute capability 9.0 and later). Returns a cudaError_t.
[[nodiscard]] int launch_empty_kernel(void* stream, bool overlaps);

}  // namespace mixcomm::tools
