// CUDA's calls, checked. Nothing here needs libcuda to link or start: the driver's functions are looked up
// when used.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <string>

namespace mixcomm::cuda {

/// Throws CudaError that says what was tried, unless `status` is success.
void check(cudaError_t status, const std::string& what);
void check(CUresult status, const std::string& what);

/// The functions of the CUDA driver that the runtime has no counterpart of.
struct Driver {
  decltype(&cuGetErrorString) get_error_string;
  decltype(&cuDeviceGet) device_get;
  decltype(&cuDeviceGetAttribute) device_get_attribute;
  decltype(&cuMemGetAllocationGranularity) mem_get_allocation_granularity;
  decltype(&cuMemCreate) mem_create;
  decltype(&cuMemRelease) mem_release;
  decltype(&cuMemAddressReserve) mem_address_reserve;
  decltype(&cuMemAddressFree) mem_address_free;
  decltype(&cuMemMap) mem_map;
  decltype(&cuMemUnmap) mem_unmap;
  decltype(&cuMemSetAccess) mem_set_access;
  decltype(&cuMemExportToShareableHandle) mem_export_to_shareable_handle;
  decltype(&cuMemImportFromShareableHandle) mem_import_from_shareable_handle;
  // Null in drivers before 12.1, whose devices then report no multicast either.
  decltype(&cuMulticastCreate) multicast_create;
  decltype(&cuMulticastAddDevice) multicast_add_device;
  decltype(&cuMulticastBindMem) multicast_bind_mem;
  decltype(&cuMulticastUnbind) multicast_unbind;
  decltype(&cuMulticastGetGranularity) multicast_get_granularity;
};

/// Throws Unsupported where there is no driver, or an older one than these functions need.
[[nodiscard]] const Driver& driver();

/// What cuDeviceGetAttribute() says of a device, by its number in the runtime. Throws CudaError.
[[nodiscard]] int attribute(int device, CUdevice_attribute which);

/// Makes `device` the calling thread's current one while it lives. As with cudaSetDevice(), the device that
/// was current before gets a context, if it has none yet, when it becomes current again. Throws CudaError.
class UseDevice {
 public:
  explicit UseDevice(int device);
  ~UseDevice();
  UseDevice(const UseDevice&) = delete;
  UseDevice& operator=(const UseDevice&) = delete;

 private:
  int previous_ = -1;  ///< -1: it is `device` anyway
};

}  // namespace mixcomm::cuda
