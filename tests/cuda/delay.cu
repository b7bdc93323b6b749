#include "cuda/delay.hpp"

#include <cuda_runtime_api.h>

namespace mixcomm::test {
namespace {

__device__ unsigned long long nanoseconds() {
  unsigned long long now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

__global__ void wait_for(unsigned long long duration) {
  const unsigned long long begin = nanoseconds();
  while (nanoseconds() - begin < duration) {
  }
}

}  // namespace

void load_delay() {
  cudaFuncAttributes attributes{};
  (void)cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(wait_for));
}

void delay_on(void* stream, int microseconds) {
  wait_for<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<unsigned long long>(microseconds) *
                                                           1000);
}

}  // namespace mixcomm::test
