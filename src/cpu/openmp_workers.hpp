// The threads of the process's OpenMP runtime, to serve in place of helpers that the library starts.
#pragma once

#include "mixcomm/communicator.hpp"

namespace mixcomm::cpu {

/// Pieces run in a parallel region of `threads` threads (0: as many as the runtime gives a region). The
/// runtime is the one that the process has loaded, whoever brought it (PyTorch's wheels bring one of their
/// own): it is looked up, and the library does not link to any. GNU's, LLVM's and Intel's all have what GCC
/// compiles a region to. Throws InvalidArgument if none is loaded.
[[nodiscard]] RunPieces openmp_workers(int threads);

}  // namespace mixcomm::cpu
