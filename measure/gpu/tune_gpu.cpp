// Built with CUDA only; else measure_gpu_unavailable.cpp.
#include "measure/gpu/tune_gpu.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <utility>

#include "cuda/links.hpp"
#include "measure/driven_ranks.hpp"
#include "measure/exchange_long.hpp"
#include "measure/gpu/gpu_bound.hpp"
#include "measure/gpu/gpu_rank.hpp"
#include "measure/gpu/graph_bench.hpp"
#include "measure/statistics.hpp"
#include "measure/tuning_steps.hpp"

namespace mixcomm::tools {
namespace {

constexpr std::size_t launches = 10;  ///< of each graph

Sweep sweep_of(const TuneOptions& options) {
  return {.tp = options.tp, .dp = options.dp, .most_bytes = options.most_bytes, .factor = 2};
}

/// How the ranks reach each other.
struct Reach {
  Link link;
  bool lines;  ///< whether data may travel in them
};

/// What is worth to be measured. First as the library would launch each algorithm by itself.
std::vector<Variant> candidates_for(const Reach& reach, Buffers buffers) {
  using enum Algorithm;
  using Protocol::barriers;
  using Protocol::lines;
  using Protocol::packets;
  std::vector<Variant> candidates{{one_shot, {}}, {two_shot, {}}};
  const auto add = [&](Algorithm algorithm, Protocol protocol, std::initializer_list<int> threads) {
    for (const int each : threads) candidates.push_back({algorithm, {protocol, 0, each}});
  };
  add(one_shot, packets, {128, 256});
  if (reach.lines) add(one_shot, lines, {128, 256, 512});
  if (reach.lines) add(two_shot, lines, {128, 256, 512});
  const bool nvlink = reach.link == Link::nvlink && reach.lines;
  if (!nvlink) add(two_shot, packets, {128, 256});
  if (!nvlink || buffers == Buffers::symmetric) add(two_shot, barriers, {256, 512});
  return candidates;
}

struct Order {
  std::vector<SweepPoint> points;
  std::size_t coarse = 0;  ///< how many of them come first, and are enough for a table
};

/// The points with their candidates: every second one of a kind behind all others.
Order in_order(const std::vector<SweepPoint>& points, const Reach& reach) {
  Order order;
  std::vector<SweepPoint> between;
  std::size_t of_kind = 0;
  for (std::size_t i = 0; i < points.size(); ++i) {
    SweepPoint point = points[i];
    const bool same =
        i > 0 && points[i - 1].cell.op == point.cell.op && points[i - 1].cell.buffers == point.cell.buffers;
    of_kind = same ? of_kind + 1 : 0;
    point.cell.variants = candidates_for(reach, point.cell.buffers);
    (of_kind % 2 == 0 ? order.points : between).push_back(std::move(point));
  }
  order.coarse = order.points.size();
  for (SweepPoint& point : between) order.points.push_back(std::move(point));
  return order;
}

/// Medians of what was measured, by kind and then by size.
using Kind = std::pair<Op, Buffers>;
using Medians = std::map<Kind, std::map<std::size_t, std::vector<double>>>;

void add_choices(TuningTable& table, const Medians& medians, const Reach& reach) {
  for (const auto& [kind, sizes] : medians) {
    const auto& [op, buffers] = kind;
    ChoiceMaker maker(op, buffers == Buffers::symmetric, candidates_for(reach, buffers));
    for (const auto& [bytes, us] : sizes) maker.add(bytes, us);
    add_choice(table, maker.finish());
  }
}

/// Rank 0's table; on other ranks none.
Json measure(Bootstrap& bootstrap, const TuneOptions& options, const std::vector<GpuRank*>& ranks,
             RanksOn place, const TuneProgress& report) {
  const auto begin = std::chrono::steady_clock::now();
  const auto has_time = [&] {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    return passed.count() < options.seconds;
  };
  const bool first = bootstrap.rank() == 0;
  std::unique_ptr<Meeting> meeting;
  if (place != RanksOn::streams) meeting = std::make_unique<Meeting>(bootstrap, launches, options.timeout);
  const GpuRank& mine = *ranks.front();
  const Reach reach{mine.link(), mine.lines()};
  const int device = mine.device();
  GraphBench bench(ranks, meeting.get(), {.launches = launches});

  const auto progress = [&](std::size_t done, std::size_t all, const std::string& now) {
    if (first && report) report(done, all, now);
  };
  const auto [points, coarse] = in_order(points_of(sweep_of(options)), reach);
  progress(0, points.size(), "what a hop and a byte take");
  const GpuBound bound = measure_gpu_bound(bench, device, options.tp * options.dp);
  Medians medians;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto& [cell, bytes] = points[i];
    if (i >= coarse) {  // of those in between there need be none
      const bool more = has_time();
      if (meeting ? meeting->decided_by_rank_0(more ? 1 : 0) == 0 : !more) break;
    }
    progress(i, points.size(), fmt::format("{}, {} bytes, {}", name(cell.op), bytes, name(cell.buffers)));
    auto [latencies, wrong] = bench.measure(cell);
    if (meeting)
      for (std::string& each : exchange_long(bootstrap, "comparing results", std::string(wrong)))
        if (wrong.empty()) wrong = std::move(each);
    if (!wrong.empty()) throw Error(fmt::format("a result is wrong: {}", wrong));
    std::vector<double>& us = medians[{cell.op, cell.buffers}][bytes];
    for (const Latencies& each : latencies) us.push_back(median(each));
  }
  if (!first) return nullptr;
  TuningTable table{.machine = cuda::machine_name(device, reach.link),
                    .backend = BackendKind::cuda,
                    .tp = options.tp,
                    .dp = options.dp,
                    .crowded = false,
                    .costs = {.wait_us = std::max(rounded(bound.hop_us), 0.0),
                              .read_gbps = std::max(rounded(bound.gbps), 0.0),
                              .flag_us = std::max(rounded(bound.hop_us), 0.0)},
                    .choices = {}};
  add_choices(table, medians, reach);
  return {{"table", table.text()}};
}

}  // namespace

TuningTable measure_gpu_tuning(Bootstrap& bootstrap, const TuneOptions& options, const GpuPlace& place,
                               const TuneProgress& progress) {
  check_tunable(options);
  const auto driven = place.ranks == RanksOn::streams ? DrivenRanks::shared(bootstrap)
                                                      : std::make_shared<DrivenRanks>(bootstrap.world());
  std::size_t most = 0;
  const Sweep sweep = sweep_of(options);
  for (const SweepPoint& point : points_of(sweep)) most = std::max(most, point.bytes);
  GpuRank mine(bootstrap, {.grid = {options.tp, options.dp},
                           .place = place,
                           .hidden = sweep.hidden,
                           .dtype = sweep.dtype,
                           .most_bytes = most,
                           .timeout = options.timeout});
  const Json table = driven->run(bootstrap, mine, place.ranks, [&](const std::vector<GpuRank*>& ranks) {
    return measure(bootstrap, options, ranks, place.ranks, progress);
  });
  return agree_on(bootstrap, table.is_null() ? "" : table["table"].get<std::string>());
}

}  // namespace mixcomm::tools
