#include "cuda/driver.hpp"

#include <fmt/format.h>

#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

/// The function that CUDA `version` (1000 * major + 10 * minor) has under that name; null where the driver is
/// older.
template <class Function>
void look_up(Function& function, const char* name, unsigned version) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result);
  (void)cudaGetLastError();  // or the caller's next check would find it
  if (status != cudaSuccess && status != cudaErrorInvalidValue)
    throw Unsupported(
        fmt::format("the CUDA driver cannot be used: {}; install a driver for CUDA {}.{} or later",
                    cudaGetErrorString(status), CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10));
  function = result == cudaDriverEntryPointSuccess ? reinterpret_cast<Function>(found) : nullptr;
}

template <class Function>
void require(Function& function, const char* name, unsigned version) {
  look_up(function, name, version);
  if (function == nullptr)
    throw Unsupported(fmt::format("the CUDA driver has no {} of CUDA {}.{}; install a newer driver", name,
                                  version / 1000, version % 1000 / 10));
}

Driver load() {
  Driver d{};
  require(d.get_error_string, "cuGetErrorString", 6000);
  require(d.device_get, "cuDeviceGet", 2000);
  require(d.device_get_attribute, "cuDeviceGetAttribute", 2000);
  require(d.mem_get_allocation_granularity, "cuMemGetAllocationGranularity", 10020);
  require(d.mem_create, "cuMemCreate", 10020);
  require(d.mem_release, "cuMemRelease", 10020);
  require(d.mem_address_reserve, "cuMemAddressReserve", 10020);
  require(d.mem_address_free, "cuMemAddressFree", 10020);
  require(d.mem_map, "cuMemMap", 10020);
  require(d.mem_unmap, "cuMemUnmap", 10020);
  require(d.mem_set_access, "cuMemSetAccess", 10020);
  require(d.mem_export_to_shareable_handle, "cuMemExportToShareableHandle", 10020);
  require(d.mem_import_from_shareable_handle, "cuMemImportFromShareableHandle", 10020);
  look_up(d.multicast_create, "cuMulticastCreate", 12010);
  look_up(d.multicast_add_device, "cuMulticastAddDevice", 12010);
  look_up(d.multicast_bind_mem, "cuMulticastBindMem", 12010);
  look_up(d.multicast_unbind, "cuMulticastUnbind", 12010);
  look_up(d.multicast_get_granularity, "cuMulticastGetGranularity", 12010);
  return d;
}

}  // namespace

void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // it is reported here; the caller's next check should not find it again
  throw CudaError(fmt::format("{}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status)));
}

void check(CUresult status, const std::string& what) {
  if (status == CUDA_SUCCESS) return;
  const char* text = nullptr;
  if (driver().get_error_string(status, &text) != CUDA_SUCCESS || text == nullptr) text = "unknown error";
  throw CudaError(fmt::format("{}: {} (CUresult {})", what, text, static_cast<int>(status)));
}

const Driver& driver() {
  static const Driver functions = load();
  return functions;
}

int attribute(int device, CUdevice_attribute which) {
  CUdevice handle = 0;
  int value = 0;
  check(driver().device_get(&handle, device), fmt::format("cannot use CUDA device {}", device));
  check(driver().device_get_attribute(&value, which, handle),
        fmt::format("cannot read attribute {} of CUDA device {}", static_cast<int>(which), device));
  return value;
}

UseDevice::UseDevice(int device) {
  int current = 0;
  check(cudaGetDevice(&current), "cannot tell the current CUDA device");
  // Also where it is the current one: that gives it a context, which the driver's functions need.
  check(cudaSetDevice(device), fmt::format("cannot use CUDA device {}", device));
  if (current != device) previous_ = current;
}

UseDevice::~UseDevice() {
  if (previous_ >= 0 && cudaSetDevice(previous_) != cudaSuccess) (void)cudaGetLastError();
}

}  // namespace mixcomm::cuda
