#include "cuda/multicast_memory.hpp"

#include <fmt/format.h>

#include "cuda/driver.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

constexpr const char* way_out = "; leave CudaOptions::multicast off";

CUmulticastObjectProp properties(int devices, std::size_t bytes, Sharing sharing) {
  CUmulticastObjectProp properties{};
  properties.numDevices = static_cast<unsigned>(devices);
  properties.size = bytes;
  properties.handleTypes = static_cast<unsigned long long>(handle_type(sharing));
  return properties;
}

CUdevice handle_of(int device) {
  CUdevice handle = 0;
  check(driver().device_get(&handle, device), fmt::format("cannot use CUDA device {}", device));
  return handle;
}

}  // namespace

void check_multicast(const std::vector<Peer>& peers) {
  for (std::size_t r = 0; r < peers.size(); ++r) {
    if (!peers[r].has_multicast)
      throw Unsupported(fmt::format("multicast was asked for, but the GPU of rank {} ({}) has none{}", r,
                                    peers[r].name, way_out));
    for (std::size_t other = 0; other < r; ++other)
      if (peers[other].uuid == peers[r].uuid)
        throw Unsupported(
            fmt::format("multicast was asked for, but ranks {} and {} share one GPU ({}), and it needs "
                        "one for each rank{}",
                        other, r, peers[r].name, way_out));
  }
  if (driver().multicast_create == nullptr || driver().multicast_add_device == nullptr ||
      driver().multicast_bind_mem == nullptr || driver().multicast_unbind == nullptr ||
      driver().multicast_get_granularity == nullptr)
    throw Unsupported(
        fmt::format("multicast was asked for, but the driver is older than CUDA 12.1{}", way_out));
}

std::size_t multicast_granularity(int devices, Sharing sharing) {
  constexpr std::size_t any_size = std::size_t{1} << 21U;
  const CUmulticastObjectProp wanted = properties(devices, any_size, sharing);
  std::size_t granularity = 0;
  check(driver().multicast_get_granularity(&granularity, &wanted, CU_MULTICAST_GRANULARITY_MINIMUM),
        "cannot tell in what sizes memory is bound to a multicast object");
  return granularity;
}

Physical Multicast::create(int devices, std::size_t bytes, Sharing sharing) {
  const CUmulticastObjectProp wanted = properties(devices, bytes, sharing);
  CUmemGenericAllocationHandle handle = 0;
  check(driver().multicast_create(&handle, &wanted),
        fmt::format(
            "cannot make a multicast object of {} bytes for {} devices (is the fabric manager running?){}",
            bytes, devices, way_out));
  return Physical(handle);
}

Multicast::~Multicast() {
  try {
    if (range_ != nullptr) range_->unmap();
  } catch (const CudaError&) {  // NOLINT(bugprone-empty-catch): CUDA has shut down, nothing is left to do
  }
  for (const int device : bound_) {
    CUdevice handle = 0;
    if (driver().device_get(&handle, device) == CUDA_SUCCESS)
      (void)driver().multicast_unbind(object_.handle(), handle, 0, bytes_);
  }
}

void Multicast::add(int device) {
  check(driver().multicast_add_device(object_.handle(), handle_of(device)),
        fmt::format("cannot add CUDA device {} to a multicast object{}", device, way_out));
}

void Multicast::bind(int device, const Physical& memory) {
  bound_.reserve(bound_.size() + 1);
  check(
      driver().multicast_bind_mem(object_.handle(), 0, memory.handle(), 0, bytes_, 0),
      fmt::format("cannot bind {} bytes of CUDA device {} to a multicast object{}", bytes_, device, way_out));
  bound_.push_back(device);
}

void Multicast::map(AddressRange& range, const std::vector<int>& devices) {
  range_ = &range;
  range.map(0, bytes_, object_);
  range.allow(devices);
}

}  // namespace mixcomm::cuda
