#include "cuda/line_stress.hpp"

#include <cuda_bf16.h>

namespace mixcomm::test {
namespace {

constexpr int threads = 256;
constexpr int blocks = 64;

__device__ std::uint32_t word_of(std::uint64_t call, int source, std::uint64_t i, bool numbers) {
  std::uint64_t x =
      (call * 64 + static_cast<std::uint64_t>(source)) * 0x9E3779B97F4A7C15ULL + i * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ x >> 30U) * 0x94D049BB133111EBULL;
  x ^= x >> 27U;
  if (!numbers) return static_cast<std::uint32_t>(x);
  const __nv_bfloat16 low(static_cast<float>(x % 31));
  const __nv_bfloat16 high(static_cast<float>((x >> 8U) % 31));
  return __bfloat16_as_ushort(low) | static_cast<std::uint32_t>(__bfloat16_as_ushort(high)) << 16U;
}

__global__ void write_kernel(Pattern pattern, std::uint32_t* to, std::size_t words, int source) {
  const std::uint64_t call = *pattern.call;
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += gridDim.x * blockDim.x)
    to[i] = word_of(call, source, i, pattern.numbers);
}

__global__ void check_kernel(Pattern pattern, const std::uint32_t* from, std::size_t words, int first,
                             int count, std::uint64_t* wrong) {
  const std::uint64_t call = *pattern.call;
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += gridDim.x * blockDim.x) {
    std::uint32_t expected = word_of(call, first, i, pattern.numbers);
    if (count > 1) {
      float low = 0;
      float high = 0;
      for (int s = first; s < first + count; ++s) {
        const std::uint32_t word = word_of(call, s, i, pattern.numbers);
        low += __bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(word)));
        high += __bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(word >> 16U)));
      }
      expected = __bfloat16_as_ushort(__nv_bfloat16(low)) |
                 static_cast<std::uint32_t>(__bfloat16_as_ushort(__nv_bfloat16(high))) << 16U;
    }
    if (from[i] != expected) atomicAdd(reinterpret_cast<unsigned long long*>(wrong), 1ULL);
  }
}

__global__ void next_kernel(Pattern pattern) {
  ++*pattern.call;
}

}  // namespace

void load_patterns() {
  cudaFuncAttributes attributes{};
  (void)cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(write_kernel));
  (void)cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(check_kernel));
  (void)cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(next_kernel));
}

void write_pattern(const Pattern& pattern, std::uint32_t* to, std::size_t words, int source, void* stream) {
  write_kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(pattern, to, words, source);
}
void check_pattern(const Pattern& pattern, const std::uint32_t* from, std::size_t words, int first, int count,
                   std::uint64_t* wrong, void* stream) {
  check_kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(pattern, from, words, first, count,
                                                                          wrong);
}
void next_call(const Pattern& pattern, void* stream) {
  next_kernel<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(pattern);
}

}  // namespace mixcomm::test
