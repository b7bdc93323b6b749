// The GPUs of this machine.
#pragma once

#include <string>

#include "measure/gpu/gpu_place.hpp"
#include "tools/command/command.hpp"

namespace mixcomm::tools {

/// {"available": true, "architectures": [...], "runtime": "13.0", "driver": "580.82.07", "devices": [{...}],
/// "mps": false}, or {"available": false, "why": "..."}. A device's "links" say for each device, itself among
/// them, how it is reached: "NVLink", "PCIe" or "one GPU". Makes no context on any device.
[[nodiscard]] Json gpus();

/// The same in lines of text.
[[nodiscard]] std::string gpus_text(const Json& gpus);

/// What a measurement on GPUs notes of them: {"name", "count", "multiprocessors", "memory_gib", "driver",
/// "cuda_runtime"}.
[[nodiscard]] Json measured_gpus();

}  // namespace mixcomm::tools
