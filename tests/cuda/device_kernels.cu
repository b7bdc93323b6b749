#include "cuda/device_kernels.hpp"

#include <cuda_runtime_api.h>

#include <mixcomm/device/barriers.cuh>
#include <stdexcept>

#include "examples/scaled_all_reduce.cuh"

namespace mixcomm::test {
namespace {

using device::Wire;

__global__ void __launch_bounds__(128)
    gather_words(const __grid_constant__ device::Handle handle, const std::uint32_t* in, std::uint32_t* out,
                 std::uint32_t count) {
  device::Barriers<> lane(handle);
  if (!lane.begin_launch()) return;
  const std::uint32_t of_lane = (count + gridDim.x - 1) / gridDim.x;
  const std::uint32_t first = min(blockIdx.x * of_lane, count);
  const std::uint32_t here = min(of_lane, count - first);
  auto* const mine = reinterpret_cast<std::uint32_t*>(lane.staging(lane.me()));
  for (std::uint32_t i = threadIdx.x; i < here; i += blockDim.x) mine[i] = in[first + i];
  if (!lane.meet({})) return;
  for (int m = 0; m < lane.members(); ++m) {
    const auto* const theirs = reinterpret_cast<const volatile std::uint32_t*>(lane.staging(m));
    for (std::uint32_t i = threadIdx.x; i < here; i += blockDim.x)
      out[static_cast<std::size_t>(m) * count + first + i] = theirs[i];
  }
  if (!lane.meet({})) return;  // mine may be written again
  lane.end_launch();
}

/// f(kernel) of each type and wire.
template <class F>
void each_sum(const F& f) {
  f(DType::fp32, Wire::packets, scaled_all_reduce<float, device::PacketWire<float>>, float{});
  f(DType::fp32, Wire::lines, scaled_all_reduce<float, device::LineWire<float, 1>>, float{});
  f(DType::bf16, Wire::packets, scaled_all_reduce<bf16, device::PacketWire<bf16>>, bf16{});
  f(DType::bf16, Wire::lines, scaled_all_reduce<bf16, device::LineWire<bf16, 1>>, bf16{});
  f(DType::fp16, Wire::packets, scaled_all_reduce<fp16, device::PacketWire<fp16>>, fp16{});
  f(DType::fp16, Wire::lines, scaled_all_reduce<fp16, device::LineWire<fp16, 1>>, fp16{});
}

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

}  // namespace

void load_device_kernels() {
  cudaFuncAttributes attributes{};
  each_sum([&](DType, Wire, auto* kernel, auto) { check(cudaFuncGetAttributes(&attributes, kernel)); });
  check(cudaFuncGetAttributes(&attributes, gather_words));
}

void launch(const DeviceLaunch& launch, const ScaledSum& sum) {
  each_sum([&](DType dtype, Wire wire, auto* kernel, auto zero) {
    if (dtype != sum.dtype || wire != sum.wire) return;
    using T = decltype(zero);
    kernel<<<launch.blocks, 256, 0, static_cast<cudaStream_t>(launch.stream)>>>(
        launch.lanes->handle(launch.call), static_cast<const T*>(sum.in), static_cast<T*>(sum.out),
        static_cast<std::uint32_t>(sum.count), sum.scale);
    check(cudaGetLastError());
  });
}

void launch(const DeviceLaunch& launch, const Gathered& gathered) {
  gather_words<<<launch.blocks, 128, 0, static_cast<cudaStream_t>(launch.stream)>>>(
      launch.lanes->handle(launch.call), gathered.in, gathered.out,
      static_cast<std::uint32_t>(gathered.count));
  check(cudaGetLastError());
}

}  // namespace mixcomm::test
