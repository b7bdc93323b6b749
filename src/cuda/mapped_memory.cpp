#include "cuda/mapped_memory.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <memory>
#include <type_traits>

#include "cuda/driver.hpp"

namespace mixcomm::cuda {
namespace {

CUmemAllocationProp properties(int device, Sharing sharing) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = handle_type(sharing);
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

}  // namespace

CUmemAllocationHandleType handle_type(Sharing sharing) {
  return sharing == Sharing::by_descriptor ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
                                           : CU_MEM_HANDLE_TYPE_NONE;
}

std::size_t granularity_of(int device, Sharing sharing) {
  const CUmemAllocationProp wanted = properties(device, sharing);
  std::size_t granularity = 0;
  check(driver().mem_get_allocation_granularity(&granularity, &wanted, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
        fmt::format("cannot tell in what sizes CUDA device {} gives memory", device));
  return granularity;
}

Physical::~Physical() {
  if (handle_ != 0) (void)driver().mem_release(handle_);
}

Physical Physical::create(int device, std::size_t bytes, Sharing sharing) {
  const CUmemAllocationProp wanted = properties(device, sharing);
  CUmemGenericAllocationHandle handle = 0;
  check(driver().mem_create(&handle, bytes, &wanted, 0),
        fmt::format("cannot get {} bytes on CUDA device {}; ask for less, or free some", bytes, device));
  return Physical(handle);
}

Physical Physical::import_from(const Fd& descriptor) {
  CUmemGenericAllocationHandle handle = 0;
  auto* as_pointer = reinterpret_cast<void*>(static_cast<std::intptr_t>(descriptor.get()));
  check(driver().mem_import_from_shareable_handle(&handle, as_pointer,
                                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        "cannot take GPU memory from another rank's descriptor; all ranks must see the same GPUs");
  return Physical(handle);
}

Fd Physical::export_descriptor() const {
  int descriptor = -1;
  check(driver().mem_export_to_shareable_handle(&descriptor, handle_,
                                                CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        "cannot make a descriptor of GPU memory");
  return Fd(descriptor);
}

AddressRange::AddressRange(std::size_t bytes, std::size_t alignment) : bytes_(bytes) {
  check(driver().mem_address_reserve(&first_, bytes, alignment, 0, 0),
        fmt::format("cannot reserve {} bytes of addresses; ask for less", bytes));
}

AddressRange::~AddressRange() {
  // Failures tell of a CUDA that has shut down, where there is nothing left to do.
  for (const Mapping& mapping : mappings_) (void)driver().mem_unmap(mapping.first, mapping.bytes);
  (void)driver().mem_address_free(first_, bytes_);
}

void AddressRange::map(std::size_t offset, std::size_t bytes, const Physical& memory) {
  mappings_.reserve(mappings_.size() + 1);  // what is mapped must be written down
  check(driver().mem_map(first_ + offset, bytes, 0, memory.handle(), 0),
        fmt::format("cannot map {} bytes of GPU memory", bytes));
  mappings_.push_back({first_ + offset, bytes});
}

void AddressRange::unmap() {
  for (; !mappings_.empty(); mappings_.pop_back())
    check(driver().mem_unmap(mappings_.back().first, mappings_.back().bytes),
          fmt::format("cannot unmap {} bytes of GPU memory", mappings_.back().bytes));
}

void AddressRange::allow(const std::vector<int>& devices) {
  std::vector<CUmemAccessDesc> access;
  for (const int device : devices) {
    CUmemAccessDesc one{};
    one.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    one.location.id = device;
    one.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    access.push_back(one);
  }
  check(driver().mem_set_access(first_, bytes_, access.data(), access.size()),
        fmt::format("cannot let CUDA device {} use {} bytes of shared GPU memory", fmt::join(devices, ", "),
                    bytes_));
}

void zero(int device, std::byte* data, std::size_t bytes) {
  const UseDevice use(device);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cannot make a stream");
  const auto destroy = [](cudaStream_t s) { (void)cudaStreamDestroy(s); };
  const std::unique_ptr<std::remove_pointer_t<cudaStream_t>, decltype(destroy)> owner(stream, destroy);
  check(cudaMemsetAsync(data, 0, bytes, stream), fmt::format("cannot zero {} bytes of GPU memory", bytes));
  check(cudaStreamSynchronize(stream), fmt::format("cannot zero {} bytes of GPU memory", bytes));
}

}  // namespace mixcomm::cuda
