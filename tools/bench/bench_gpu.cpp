// Built with CUDA only; else gpus_unavailable.cpp.
#include "tools/bench/bench_gpu.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "choice/gpu_choice.hpp"
#include "measure/exchange_long.hpp"
#include "measure/gpu/gpu_bound.hpp"
#include "measure/gpu/gpu_rank.hpp"
#include "measure/gpu/graph_bench.hpp"
#include "measure/statistics.hpp"
#include "tools/command/output.hpp"
#include "tools/command/ranks.hpp"

namespace mixcomm::tools {
namespace {

GpuTraffic traffic_of(const Row& row, const BenchOptions& options) {
  return GpuTraffic({.op = row.cell.op,
                     .tp = row.grid.tp,
                     .dp = row.grid.dp,
                     .bytes = tensor_bytes(row.cell, options.hidden, options.dtype),
                     .largest_block_bytes = *std::max_element(row.cell.rows.begin(), row.cell.rows.end()) *
                                            options.hidden * size_of(options.dtype)});
}

/// What no operation of one kernel can beat, by what was measured in the same run.
double bound_us(const GpuBound& bound, const GpuTraffic& traffic) {
  const double us_per_byte = bound.gbps > 0 ? 1e-3 / bound.gbps : 0;
  const double one_shot = bound.hop_us + traffic.one_shot_bytes() * us_per_byte;
  const double two_shot = 2 * bound.hop_us + traffic.two_shot_bytes() * us_per_byte;
  return rounded(bound.kernel_us() + std::min(one_shot, two_shot));
}

/// What a rank sends each other rank in lines, at the least: 16 bytes for 15.
std::size_t line_bytes(const GpuTraffic& traffic, int world) {
  const double bytes = std::min(traffic.one_shot_bytes(), traffic.two_shot_bytes());
  return static_cast<std::size_t>(bytes / (world - 1) * 16 / 15);
}

}  // namespace

GpuBench::GpuBench(const BenchOptions& options, const GridSize& grid)
    : options_(options), grid_(grid), ranks_(grid.world()) {}

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
                           .nccl = options_.needs_nccl(),
                           .epilogues = options_.has_epilogues(),
                           .tuning = options_.tuning});
  return ranks_.run(bootstrap, mine, place.ranks, [&](const std::vector<GpuRank*>& driven) {
    return drive(bootstrap, driven, place.ranks);
  });
}

Json GpuBench::drive(Bootstrap& bootstrap, const std::vector<GpuRank*>& ranks, RanksOn place) {
  const bool all_here = place == RanksOn::streams;
  const bool first = bootstrap.rank() == 0;
  const std::size_t launches = options_.effort.iterations;
  std::unique_ptr<Meeting> meeting;
  if (!all_here) meeting = std::make_unique<Meeting>(bootstrap, launches, options_.ranks.timeout());
  const std::string nccl = ranks.front()->about_nccl();
  const int device = ranks.front()->device();
  const Link link = ranks.front()->link();
  GraphBench bench(ranks, meeting.get(), {.launches = launches, .with_launch = options_.with_launch});

  const GpuBound bound = measure_gpu_bound(bench, device, grid_.world());
  Json more{{"ranks", name(place)}, {"floor_us", bound.floor_us}};
  if (bound.overlapped_us > 0) more["floor_overlapped_us"] = bound.overlapped_us;
  if (bound.gbps > 0) more["ingress_gbps"] = std::round(bound.gbps);
  if (bound.hop_us > 0) more["hop_us"] = rounded(bound.hop_us);
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
    // FP8 travels in fewer bytes than these count.
    const bool bounded = grid_.world() > 1 && rows[i].cell.epilogue != EpilogueKind::add_rms_norm_fp8;
    const GpuTraffic traffic = traffic_of(rows[i], options_);
    const double writes = bounded ? measure_writes_us(bench, line_bytes(traffic, grid_.world())) : 0;
    auto [latencies, found] = bench.measure(rows[i].cell);
    wrong = std::move(found);
    if (!all_here)
      for (std::string& each : exchange_long(bootstrap, "comparing results", std::string(wrong)))
        if (wrong.empty()) wrong = std::move(each);
    if (!first) continue;
    more.erase("bound_us");
    more.erase("line_writes_us");
    if (bounded) {
      more["bound_us"] = bound_us(bound, traffic);
      more["line_writes_us"] = writes;
    }
    for (Json& result : cell_json(options_, rows[i], latencies, more)) results.push_back(std::move(result));
  }
  return {{"rows", results}, {"wrong", wrong}};
}

}  // namespace mixcomm::tools
