// Launches scaled_all_reduce.cuh beside the library's own operations. Ranks are threads that share a GPU
// here; as processes with a GPU each they would do the same.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <mixcomm/mixcomm.hpp>
#include <stdexcept>
#include <vector>

#include "scaled_all_reduce.cuh"

namespace {

using Wire = mixcomm::device::PacketWire<float>;

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

void one_rank(mixcomm::Bootstrap& bootstrap) {
  constexpr std::uint32_t count = 10'000;
  mixcomm::Communicator communicator(bootstrap, {.tp = 4, .backend = mixcomm::BackendKind::cuda});
  const mixcomm::DeviceLanes lanes = communicator.device_lanes({.team = mixcomm::TeamKind::tp, .lanes = 8});

  // Before the first launch: bringing a kernel onto the device may wait for kernels that wait for this one.
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, scaled_all_reduce<float, Wire>));
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  float* data = nullptr;
  check(cudaMalloc(&data, count * sizeof(float)));
  std::vector<float> host(count, 1.0F + static_cast<float>(bootstrap.rank()));
  check(cudaMemcpyAsync(data, host.data(), count * sizeof(float), cudaMemcpyHostToDevice, stream));
  (void)bootstrap.exchange("being ready", "");  // nobody allocates any more

  const mixcomm::Tensor tensor = mixcomm::tensor(data, 1, count);
  communicator.all_reduce(tensor, tensor, {.stream = stream});  // 10 everywhere
  scaled_all_reduce<float, Wire><<<8, 256, 0, stream>>>(lanes.handle(1), data, data, count, 0.25F);  // 10
  communicator.all_reduce(tensor, tensor, {.stream = stream});                                       // 40
  scaled_all_reduce<float, Wire><<<8, 256, 0, stream>>>(lanes.handle(2), data, data, count, 0.5F);   // 80
  check(cudaGetLastError());
  check(cudaStreamSynchronize(stream));
  communicator.check();  // throws what the kernels have found: who did not come, and to which launch
  check(cudaMemcpyAsync(host.data(), data, count * sizeof(float), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));

  for (const float x : host)
    if (x != 80.0F) throw std::runtime_error("WRONG: " + std::to_string(x));
  std::printf("rank %d: %u elements, each %g\n", bootstrap.rank(), count, static_cast<double>(host[0]));
  (void)bootstrap.exchange("being through", "");  // no rank frees memory while kernels of others run
  check(cudaFree(data));
  check(cudaStreamDestroy(stream));
}

}  // namespace

int main() {
  // Streams of one process share its hardware queues, 8 unless told otherwise; read when CUDA starts.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: scaled_all_reduce needs a GPU (%s)\n", cudaGetErrorString(status));
    return 77;
  }
  try {
    mixcomm::run_threads(4, one_rank);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
