// What the user says by environment variables, without touching the program.
#pragma once

#include "mixcomm/communicator.hpp"

namespace mixcomm {

/// MIXCOMM_ALGORITHM takes the place of Algorithm::automatic; MIXCOMM_DISABLE=fusion,lines,multicast switches
/// off what is named: fusion makes every operation composed that names no algorithm of its own.
/// MIXCOMM_THREADS takes the place of CpuOptions::threads where that is 0.
/// MIXCOMM_WORKERS=openmp lets the process's OpenMP threads serve as CpuOptions::workers, where none are
/// given. NCCL_NVLS_ENABLE=0 and TORCH_SYMM_MEM_DISABLE_MULTICAST=1 switch off multicast, too. Throws
/// InvalidArgument naming the variable.
[[nodiscard]] CommunicatorOptions with_environment(CommunicatorOptions options);

}  // namespace mixcomm
