#include "measure/gpu/link_probe.hpp"

#include <algorithm>
#include <cstdint>

#include "cuda/driver.hpp"
#include "mixcomm/device/ptx.cuh"

namespace mixcomm::tools {
namespace {

constexpr int flags = 50;
constexpr int blocks = 128;
constexpr int threads = 512;

/// Flags lie in front of what is written.
constexpr std::size_t data_begins = 4096;

__global__ void write_kernel(std::byte* first, std::size_t stride, int rank, int world, std::size_t packs) {
  const auto value = make_uint4(static_cast<unsigned>(rank), 1, 2, 3);
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += gridDim.x * blockDim.x)
    for (int k = 1; k < world; ++k) {
      const int to = (rank + k) % world;
      auto* place = reinterpret_cast<uint4*>(first + static_cast<std::size_t>(to) * stride + data_begins);
      place[i] = value;
    }
}

/// Pairs of ranks: the even one begins. Gives up after a second.
__global__ void flag_kernel(std::byte* first, std::size_t stride, int rank, int world) {
  const int other = rank % 2 == 0 ? rank + 1 : rank - 1;
  if (other >= world) return;
  auto* mine = reinterpret_cast<std::uint32_t*>(first + static_cast<std::size_t>(rank) * stride);
  auto* theirs = reinterpret_cast<std::uint32_t*>(first + static_cast<std::size_t>(other) * stride);
  const std::uint32_t begin = mine[1];  // how many flags there have been
  const std::uint64_t deadline = device::ptx::nanoseconds() + 1'000'000'000;
  for (std::uint32_t i = 1; i <= flags; ++i) {
    if (rank % 2 == 0) device::ptx::store_relaxed(theirs, begin + i);
    while (device::ptx::load_relaxed(mine) != begin + i)
      if (device::ptx::nanoseconds() > deadline) return;
    if (rank % 2 != 0) device::ptx::store_relaxed(theirs, begin + i);
  }
  mine[1] = begin + flags;
}

}  // namespace

LinkProbe::LinkProbe(Bootstrap& bootstrap, int device, Milliseconds timeout)
    : rank_(bootstrap.rank()),
      world_(bootstrap.world()),
      provider_(cuda::make_memory_provider(bootstrap, device, {}, timeout)),
      memory_(provider_->allocate(data_begins + most_bytes)) {}

void LinkProbe::write_to_all(std::size_t bytes, cudaStream_t stream) const {
  const std::size_t packs = std::min(bytes, most_bytes) / sizeof(uint4);
  write_kernel<<<blocks, threads, 0, stream>>>(memory_.first, memory_.stride, rank_, world_, packs);
  cuda::check(cudaGetLastError(), "launching a kernel that writes to all ranks");
}
void LinkProbe::exchange_flags(cudaStream_t stream) const {
  flag_kernel<<<1, 1, 0, stream>>>(memory_.first, memory_.stride, rank_, world_);
  cuda::check(cudaGetLastError(), "launching a kernel that exchanges flags");
}

int LinkProbe::hops() {
  return 2 * flags;
}

}  // namespace mixcomm::tools
