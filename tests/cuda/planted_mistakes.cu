#include "cuda/planted_mistakes.hpp"

#include <cuda_runtime_api.h>

namespace mixcomm::test {
namespace {

constexpr int threads = 64;

/// `buffer` has `threads` numbers; the last thread writes one more.
__global__ void mistakes(int* buffer) {
  __shared__ int shared[threads];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  buffer[threadIdx.x + threadIdx.x / (threads - 1)] = shared[threads - 1 - threadIdx.x];
}

}  // namespace

void make_planted_mistakes() {
  int* buffer = nullptr;
  if (cudaMalloc(&buffer, threads * sizeof(int)) != cudaSuccess) return;
  mistakes<<<1, threads>>>(buffer);
  (void)cudaDeviceSynchronize();
  (void)cudaFree(buffer);
}

}  // namespace mixcomm::test
