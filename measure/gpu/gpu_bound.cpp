// Built with CUDA only.
#include "measure/gpu/gpu_bound.hpp"

#include "cuda/driver.hpp"
#include "measure/gpu/empty_kernel.hpp"
#include "measure/statistics.hpp"

namespace mixcomm::tools {
namespace {

double measure_floor_us(GraphBench& bench, bool overlaps) {
  return rounded(median(bench.measure_other([&](const GpuRank& rank) {
    cuda::check(static_cast<cudaError_t>(launch_empty_kernel(rank.stream(), overlaps)),
                "launching an empty kernel");
  })));
}

}  // namespace

double measure_writes_us(GraphBench& bench, std::size_t bytes_to_each) {
  const Latencies latencies =
      bench.measure_other([&](GpuRank& rank) { rank.probe().write_to_all(bytes_to_each, rank.stream()); });
  return latencies.empty() ? 0 : rounded(median(latencies));
}

GpuBound measure_gpu_bound(GraphBench& bench, int device, int world) {
  GpuBound bound{.floor_us = measure_floor_us(bench, false)};
  int capability = 0;
  cuda::check(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device),
              "asking for the compute capability");
  if (capability >= 9) bound.overlapped_us = measure_floor_us(bench, true);
  const double writing = measure_writes_us(bench, LinkProbe::most_bytes);
  const Latencies flags =
      bench.measure_other([](GpuRank& rank) { rank.probe().exchange_flags(rank.stream()); });
  if (flags.empty()) return bound;  // not on rank 0's thread
  bound.gbps = static_cast<double>(LinkProbe::most_bytes) * (world - 1) / (writing - bound.floor_us) / 1000;
  bound.hop_us = (median(flags) - bound.floor_us) / LinkProbe::hops();
  return bound;
}

}  // namespace mixcomm::tools
