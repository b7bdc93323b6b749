// What `mixcomm tune --backend cuda`, and tune(backend="cuda") in Python, measure.
#pragma once

#include "measure/gpu/gpu_place.hpp"
#include "measure/measure_tuning.hpp"

namespace mixcomm::tools {

/// Measures each operation with each algorithm, protocol and launch shape that may pay, as CUDA graphs of
/// many calls, and checks what they compute. Sizes in steps of four are measured, then those in between as
/// far as the time goes. The calling thread's GPU is the place's. Collective over tp * dp ranks, which pass
/// the same but for the device: rank 0's table on every rank. Throws Unsupported in a build without CUDA,
/// what check_tunable() throws, Error if a result is wrong, and what operations throw.
[[nodiscard]] TuningTable measure_gpu_tuning(Bootstrap& bootstrap, const TuneOptions& options,
                                             const GpuPlace& place, const TuneProgress& progress);

}  // namespace mixcomm::tools
