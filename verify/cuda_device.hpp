// Only in builds with CUDA.
#pragma once

#include <memory>

#include "verify/device.hpp"

namespace mixcomm::verify {

/// make_device() of a GPU; -1 is the calling thread's current one.
[[nodiscard]] std::unique_ptr<Device> make_cuda_device(int device);

}  // namespace mixcomm::verify
