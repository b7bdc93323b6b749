// Built with CUDA only; else measure_gpu_unavailable.cpp.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "cuda/driver.hpp"
#include "measure/gpu/gpu_place.hpp"

namespace mixcomm::tools {

int gpu_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void use_gpu(int device) {
  cuda::check(cudaSetDevice(device), fmt::format("choosing CUDA device {}", device));
}

std::string gpu_uuid(int device) {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, device), "reading a device's properties");
  const cudaUUID_t uuid = properties.uuid;
  std::string text;
  for (const char byte : uuid.bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

int current_gpu() {
  int device = 0;
  cuda::check(cudaGetDevice(&device), "looking for the current device");
  return device;
}

}  // namespace mixcomm::tools
