// What the links between GPUs give, by themselves: how fast bytes arrive when all ranks write to all others,
// and how long a flag takes. Built with CUDA only.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "cuda/symmetric_memory.hpp"
#include "mixcomm/mixcomm.hpp"

namespace mixcomm::tools {

class LinkProbe {
 public:
  /// Collective.
  LinkProbe(Bootstrap& bootstrap, int device, Milliseconds timeout);

  static constexpr std::size_t most_bytes = std::size_t{16} << 20U;

  /// Puts a kernel on the stream that writes `bytes` to each other rank, at most most_bytes.
  void write_to_all(std::size_t bytes, cudaStream_t stream) const;
  /// ... that sends a flag to another rank and waits for its, hops() times. All ranks must come.
  void exchange_flags(cudaStream_t stream) const;

  [[nodiscard]] static int hops();

 private:
  int rank_;
  int world_;
  std::unique_ptr<cuda::MemoryProvider> provider_;
  cuda::Slices memory_;
};

}  // namespace mixcomm::tools
