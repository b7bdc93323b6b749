// Kernels on the device layer, as its users write them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mixcomm/mixcomm.hpp"

namespace mixcomm::test {

/// Brings the kernels onto the device, which may wait for kernels that run: before the first operation.
void load_device_kernels();

struct DeviceLaunch {
  const DeviceLanes* lanes;
  int blocks;
  std::uint64_t call;
  void* stream;
};

/// examples/scaled_all_reduce.cuh, over one of the wires. `dtype` is fp32, bf16 or fp16.
struct ScaledSum {
  device::Wire wire;
  DType dtype;
  const void* in;
  void* out;
  std::size_t count;
  float scale;
};
void launch(const DeviceLaunch& launch, const ScaledSum& sum);

/// out = member 0's `count` words, then member 1's, ...: plain data between barriers.
struct Gathered {
  const std::uint32_t* in;
  std::uint32_t* out;
  std::size_t count;
};
void launch(const DeviceLaunch& launch, const Gathered& gathered);

}  // namespace mixcomm::test
