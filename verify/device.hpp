// Plain (not symmetric) memory of either backend, for those who check and measure operations from the host.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "mixcomm/communicator.hpp"

namespace mixcomm::verify {

/// One rank's device: host memory, or a GPU with a stream of its own.
///
/// Ranks may be threads that share a GPU, whose kernels wait for each other. Nothing that waits for the whole
/// device may happen while operations are in flight, so the calls below copy and wait on this stream alone,
/// never on the default one. Still, make devices and allocate before the first operation, and free after the
/// last of any rank.
class Device {
 public:
  virtual ~Device() = default;
  /// At least 256-byte aligned.
  [[nodiscard]] virtual std::shared_ptr<std::byte> allocate(std::size_t bytes) = 0;
  /// Copies from or to host memory, behind what is on the stream; complete when they return.
  virtual void write(std::byte* to, const std::byte* from, std::size_t bytes) = 0;
  virtual void read(std::byte* to, const std::byte* from, std::size_t bytes) = 0;
  /// For CallOptions::stream; null for host memory.
  [[nodiscard]] virtual void* stream() const = 0;
  /// Waits for what is on the stream.
  virtual void synchronize() = 0;
};

/// Throws Unsupported in a build without CUDA, CudaError where there is no such device. `device` -1: the
/// current one.
[[nodiscard]] std::unique_ptr<Device> make_device(BackendKind backend, int device = -1);

/// Why CUDA cannot be used here ("built without CUDA", "no CUDA device: ..."), or "".
[[nodiscard]] std::string why_no_cuda();

}  // namespace mixcomm::verify
