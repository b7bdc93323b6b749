// Built with CUDA only; else gpus_unavailable.cpp.
#include "tools/bench_gpu.hpp"

#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "cuda/driver.hpp"
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

GpuBench::GpuBench(const BenchOptions& options, const std::vector<Row>& rows)
    : options_(options),
      rows_(rows),
      parts_(static_cast<std::size_t>(rows.front().grid.world())),
      wait_until_driven_(driven_.get_future().share()) {}

Json GpuBench::run(Bootstrap& bootstrap) {
  const GpuPlace place = place_on_gpu(bootstrap, options_.backend, options_.ranks);
  GpuRank mine(bootstrap, {.grid = rows_.front().grid,
                           .place = place,
                           .hidden = options_.hidden,
                           .dtype = options_.dtype,
                           .protocols = options_.protocols,
                           .max_lanes = options_.max_lanes,
                           .most_bytes = most_bytes(options_, rows_),
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
  GraphBench bench(std::move(ranks), meeting.get(),
                   {.launches = launches, .back_to_back = options_.back_to_back});

  Json more{{"ranks", name(place)}, {"floor_us", rounded_median(bench.measure_empty_kernel(false))}};
  int capability = 0;
  cuda::check(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device),
              "asking for the compute capability");
  if (capability >= 9) more["floor_overlapped_us"] = rounded_median(bench.measure_empty_kernel(true));
  if (options_.back_to_back) more["back_to_back"] = true;
  if (options_.max_lanes != 0) more["max_lanes"] = options_.max_lanes;
  const GridSize grid = rows_.front().grid;
  if (first)
    fmt::print(stderr, "bench: {}x{} ranks as {}: an empty kernel takes {} us\n", grid.tp, grid.dp,
               name(place), more["floor_us"].get<double>());
  if (!nccl.empty()) {
    more["nccl"] = nccl;
    if (first) fmt::print(stderr, "bench: NCCL {}\n", nccl);
  }

  std::unique_ptr<Progress> progress;
  if (first) progress = std::make_unique<Progress>(fmt::format("bench {}x{}", grid.tp, grid.dp));
  Json results = Json::array();
  std::string wrong;
  for (std::size_t i = 0; i < rows_.size() && wrong.empty(); ++i) {
    if (progress) progress->update(i, rows_.size(), name(rows_[i].cell.op));
    auto [latencies, found] = bench.measure(rows_[i].cell);
    wrong = std::move(found);
    if (!all_here)
      for (std::string& each : exchange_long(bootstrap, "comparing results", std::string(wrong)))
        if (wrong.empty()) wrong = std::move(each);
    if (!first) continue;
    for (Json& result : cell_json(options_, rows_[i], latencies, more)) results.push_back(std::move(result));
  }
  return {{"rows", results}, {"wrong", wrong}};
}

}  // namespace mixcomm::tools
