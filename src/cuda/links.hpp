// How the GPUs of the ranks are joined.
#pragma once

#include <string>

#include "mixcomm/bootstrap.hpp"
#include "mixcomm/operation.hpp"

namespace mixcomm::cuda {

/// A device's PCI address: "0000:1b:00.0". Throws CudaError.
[[nodiscard]] std::string bus_id_of(int device);

/// Between this process's device and the GPU at a PCI address ("0000:1b:00.0"), which need not be visible
/// here. NVML knows; without it CUDA says of visible devices whether their link has atomics, as NVLink does.
[[nodiscard]] Link link_between(int device, const std::string& bus_id);

/// Collective: the slowest between any two ranks, the same on all. Throws CudaError, Timeout.
[[nodiscard]] Link slowest_link(Bootstrap& bootstrap, int device);

/// What a tuning table calls a machine whose ranks are joined so: "NVIDIA H200, NVLink". Throws CudaError.
[[nodiscard]] std::string machine_name(int device, Link link);

}  // namespace mixcomm::cuda
