// GPU memory and the addresses where it is seen, which CUDA's virtual memory management keeps apart.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "mixcomm/fd.hpp"

namespace mixcomm::cuda {

/// How memory may be given to others.
enum class Sharing { within_process, by_descriptor };

[[nodiscard]] CUmemAllocationHandleType handle_type(Sharing sharing);

/// Sizes of memory on `device` are multiples of this. Throws CudaError.
[[nodiscard]] std::size_t granularity_of(int device, Sharing sharing);

/// Memory, wherever it is mapped; or a multicast object, which CUDA handles alike. It lives as long as this,
/// any mapping, or any other process's import.
class Physical {
 public:
  Physical() = default;
  /// Takes over a handle.
  explicit Physical(CUmemGenericAllocationHandle handle) : handle_(handle) {}
  ~Physical();
  Physical(Physical&& other) noexcept : handle_(std::exchange(other.handle_, 0)) {}
  Physical& operator=(Physical&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Physical(const Physical&) = delete;
  Physical& operator=(const Physical&) = delete;

  /// `bytes`: a multiple of granularity_of(). Not zeroed. Throws CudaError.
  [[nodiscard]] static Physical create(int device, std::size_t bytes, Sharing sharing);
  /// What another rank has exported; the descriptor is not needed any more afterwards. Throws CudaError.
  [[nodiscard]] static Physical import_from(const Fd& descriptor);
  /// Throws CudaError.
  [[nodiscard]] Fd export_descriptor() const;

  [[nodiscard]] CUmemGenericAllocationHandle handle() const { return handle_; }

 private:
  CUmemGenericAllocationHandle handle_ = 0;
};

/// A range of addresses, the same for all devices of this process. Destroying it unmaps all; that needs no
/// current device, may happen on any thread and after CUDA has shut down, and waits for nothing: kernels that
/// use the addresses must have ended.
class AddressRange {
 public:
  /// Throws CudaError.
  AddressRange(std::size_t bytes, std::size_t alignment);
  ~AddressRange();
  AddressRange(const AddressRange&) = delete;
  AddressRange& operator=(const AddressRange&) = delete;

  /// Shows `bytes` of `memory` at that offset, to no device yet. Throws CudaError.
  void map(std::size_t offset, std::size_t bytes, const Physical& memory);
  /// Unmaps all, and keeps the addresses, where other memory can be mapped. Throws CudaError.
  void unmap();
  /// Lets these devices read and write it all; all of it must be mapped. Throws CudaError.
  void allow(const std::vector<int>& devices);

  // CUDA has addresses as numbers. NOLINTNEXTLINE(performance-no-int-to-ptr)
  [[nodiscard]] std::byte* data() const { return reinterpret_cast<std::byte*>(first_); }

 private:
  struct Mapping {
    CUdeviceptr first;
    std::size_t bytes;
  };

  CUdeviceptr first_ = 0;
  std::size_t bytes_;
  std::vector<Mapping> mappings_;
};

/// Fills memory of `device` with zeros, and returns when that is done. Waits for no other work on the device.
/// Throws CudaError.
void zero(int device, std::byte* data, std::size_t bytes);

}  // namespace mixcomm::cuda
