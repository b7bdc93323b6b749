// Symmetric memory through NVLink multicast: one store reaches the same place on all devices.
//
// This has been compiled only: it has not run on hardware with multicast yet.
#pragma once

#include <cstddef>
#include <vector>

#include "cuda/mapped_memory.hpp"
#include "cuda/peers.hpp"

namespace mixcomm::cuda {

/// Throws Unsupported, naming ranks, unless each rank has a device of its own and all devices have multicast.
/// All ranks come to the same result.
void check_multicast(const std::vector<Peer>& peers);

/// Sizes of what `devices` devices bind are multiples of this. Throws CudaError.
[[nodiscard]] std::size_t multicast_granularity(int devices, Sharing sharing);

/// A multicast object. Every device is added before any memory is bound, or else bind() and map() would wait
/// for ever; all memory is bound before anybody stores. Destroying it unmaps and unbinds what this process
/// has put in.
class Multicast {
 public:
  /// For `bytes` of each of `devices` devices; `bytes` is a multiple of multicast_granularity(). Throws
  /// CudaError.
  [[nodiscard]] static Physical create(int devices, std::size_t bytes, Sharing sharing);

  /// Takes over what create() made, or another rank exported.
  Multicast(Physical object, std::size_t bytes) : object_(std::move(object)), bytes_(bytes) {}
  ~Multicast();
  Multicast(const Multicast&) = delete;
  Multicast& operator=(const Multicast&) = delete;

  /// These throw CudaError.
  void add(int device);
  void bind(int device, const Physical& memory);
  /// `range` is of as many bytes, and outlives this.
  void map(AddressRange& range, const std::vector<int>& devices);

 private:
  Physical object_;
  std::size_t bytes_;
  std::vector<int> bound_;
  AddressRange* range_ = nullptr;  ///< where it is mapped
};

}  // namespace mixcomm::cuda
