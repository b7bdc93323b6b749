#include "measure/gpu/empty_kernel.hpp"

#include <cuda_runtime_api.h>

namespace mixcomm::tools {
namespace {

__global__ void empty_kernel() {
#if __CUDA_ARCH__ >= 900
  // As the library's kernels do: of no effect in a plain launch.
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace

int launch_empty_kernel(void* stream, bool overlaps) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(32);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = overlaps ? 1 : 0;
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(&empty_kernel), nullptr);
}

}  // namespace mixcomm::tools
