// Built with CUDA only; else gpus_unavailable.cpp.
#include "tools/bench_gpu.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "choice/gpu_choice.hpp"
#include "cuda/driver.hpp"
#include "tools/empty_kernel.hpp"
#include "tools/exchange_long.hpp"
#include "tools/gpu_rank.hpp"
#include "tools/graph_bench.hpp"
#include "tools/output.hpp"
#include "tools/ranks.hpp"
#include "tools/statistics.hpp"

namespace mixcomm::tools {
namespace {

double rounded_median(const Latencies& latencies) {
  return std::round(median(latencies) * 1000) / 1000;
}

/// What no operation of one kernel can beat, by what was measured in the same run.
struct Bound {
  double kernel_us = 0;  ///< an empty one behind another
  double hop_us = 0;     ///< a flag from one rank to another
  double gbps = 0;       ///< at which bytes arrive at each rank, when all write to all

  [[nodiscard]] double us(const Row& row, const BenchOptions& options) const {
    const Circumstances c{
        .op = row.cell.op,
        .tp = row.grid.tp,
        .dp = row.grid.dp,
        .bytes = tensor_bytes(row.cell, options.hidden, options.dtype),
        .largest_block_bytes = *std::max_element(row.cell.rows.begin(), row.cell.rows.end()) *
                               options.hidden * size_of(options.dtype)};
    const GpuTraffic traffic(c);
    const double us_per_byte = gbps > 0 ? 1e-3 / gbps : 0;
    const double one_shot = hop_us + traffic.one_shot_bytes() * us_per_byte;
    const double two_shot = 2 * hop_us + traffic.two_shot_bytes() * us_per_byte;
    return std::round((kernel_us + std::min(one_shot, two_shot)) * 1000) / 1000;
  }
};

Bound measure_bound(GraphBench& bench, int world, Json& more) {
  Bound bound{.kernel_us = more.value("floor_overlapped_us", more["floor_us"].get<double>())};
  const Latencies writing =
      bench.measure_other([](GpuRank& rank) { rank.probe().write_to_all(rank.stream()); });
  const Latencies flags =
      bench.measure_other([](GpuRank& rank) { rank.probe().exchange_flags(rank.stream()); });
  if (writing.empty()) return bound;  // not on rank 0's thread
  const double floor = more["floor_us"].get<double>();
  bound.gbps =
      static_cast<double>(LinkProbe::bytes_written()) * (world - 1) / (median(writing) - floor) / 1000;
  bound.hop_us = (median(flags) - floor) / LinkProbe::hops();
  more["ingress_gbps"] = std::round(bound.gbps);
  more["hop_us"] = std::round(bound.hop_us * 1000) / 1000;
  return bound;
}

/// Keeps a promise at the end of a block, however it ends.
class KeptAtTheEnd {
 public:
  explicit KeptAtTheEnd(std::promise<void>& promise) : promise_(promise) {}
  ~KeptAtTheEnd() { promise_.set_value(); }
  KeptAtTheEnd(const KeptAtTheEnd&) = delete;
  KeptAtTheEnd& operator=(const KeptAtTheEnd&) = delete;

 private:
  std::promise<void>& promise_;
};

}  // namespace

GpuBench::GpuBench(const BenchOptions& options, const GridSize& grid)
    : options_(options),
      grid_(grid),
      parts_(static_cast<std::size_t>(grid.world())),
      wait_until_driven_(driven_.get_future().share()) {}

Json GpuBench::run(Bootstrap& bootstrap) {
  const GpuPlace place = place_on_gpu(bootstrap, options_.backend, options_.ranks);
  GpuRank mine(bootstrap, {.grid = grid_,
                           .place = place,
                           .hidden = options_.hidden,
                           .dtype = options_.dtype,
                           .max_lanes = options_.max_lanes,
                           .workspace_bytes = options_.workspace_bytes,
                           .most_bytes = most_bytes(options_, rows_of(options_, grid_, Link::nvlink)),
                           .timeout = options_.ranks.timeout(),
                           .nccl = options_.needs_nccl()});
  if (place.ranks != RanksOn::streams) return drive(bootstrap, {&mine}, place.ranks);
  // One thread drives all ranks, since one graph holds the calls of all; the other threads keep their parts
  // alive.
  parts_[static_cast<std::size_t>(bootstrap.rank())] = &mine;
  const std::shared_future<void> driven = wait_until_driven_;
  (void)bootstrap.exchange("bringing all ranks under one thread", "");
  if (bootstrap.rank() == 0) {
    const KeptAtTheEnd kept(driven_);
    return drive(bootstrap, parts_, place.ranks);
  }
  driven.wait();
  return {{"rows", Json::array()}, {"wrong", ""}};
}

Json GpuBench::drive(Bootstrap& bootstrap, std::vector<GpuRank*> ranks, RanksOn place) {
  const bool all_here = place == RanksOn::streams;
  const bool first = bootstrap.rank() == 0;
  const std::size_t launches = options_.effort.iterations;
  std::unique_ptr<Meeting> meeting;
  if (!all_here) meeting = std::make_unique<Meeting>(bootstrap, launches, options_.ranks.timeout());
  const std::string nccl = ranks.front()->about_nccl();
  const int device = ranks.front()->device();
  const Link link = ranks.front()->link();
  GraphBench bench(std::move(ranks), meeting.get(),
                   {.launches = launches, .with_launch = options_.with_launch});

  const auto floor_us = [&](bool overlaps) {
    return rounded_median(bench.measure_other([&](const GpuRank& rank) {
      cuda::check(static_cast<cudaError_t>(launch_empty_kernel(rank.stream(), overlaps)),
                  "launching an empty kernel");
    }));
  };
  Json more{{"ranks", name(place)}, {"floor_us", floor_us(false)}};
  int capability = 0;
  cuda::check(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device),
              "asking for the compute capability");
  if (capability >= 9) more["floor_overlapped_us"] = floor_us(true);
  const Bound bound = measure_bound(bench, grid_.world(), more);
  if (options_.with_launch) more["with_launch"] = true;
  if (options_.workspace_bytes != 0) more["workspace_bytes"] = options_.workspace_bytes;
  more["link"] = name(link);
  if (options_.max_lanes != 0) more["max_lanes"] = options_.max_lanes;
  const std::vector<Row> rows = rows_of(options_, grid_, link);
  if (first)
    fmt::print(stderr, "bench: {}x{} ranks as {}: an empty kernel takes {} us\n", grid_.tp, grid_.dp,
               name(place), more["floor_us"].get<double>());
  if (!nccl.empty()) {
    more["nccl"] = nccl;
    if (first) fmt::print(stderr, "bench: NCCL {}\n", nccl);
  }

  std::unique_ptr<Progress> progress;
  if (first) progress = std::make_unique<Progress>(fmt::format("bench {}x{}", grid_.tp, grid_.dp));
  Json results = Json::array();
  std::string wrong;
  for (std::size_t i = 0; i < rows.size() && wrong.empty(); ++i) {
    if (progress) progress->update(i, rows.size(), name(rows[i].cell.op));
    auto [latencies, found] = bench.measure(rows[i].cell);
    wrong = std::move(found);
    if (!all_here)
      for (std::string& each : exchange_long(bootstrap, "comparing results", std::string(wrong)))
        if (wrong.empty()) wrong = std::move(each);
    if (!first) continue;
    if (grid_.world() > 1) more["bound_us"] = bound.us(rows[i], options_);
    for (Json& result : cell_json(options_, rows[i], latencies, more)) results.push_back(std::move(result));
  }
  return {{"rows", results}, {"wrong", wrong}};
}

}  // namespace mixcomm::tools
