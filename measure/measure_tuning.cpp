#include "measure/measure_tuning.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/processors.hpp"
#include "measure/bench_cpu.hpp"
#include "measure/exchange_long.hpp"
#include "measure/processors.hpp"
#include "measure/statistics.hpp"
#include "measure/tuning_steps.hpp"
#include "mixcomm/cost.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::tools {
namespace {

constexpr std::size_t bound_bytes = 1U << 20U;  ///< where the bandwidth is read off

/// Near and far alike: a table must serve for both.
double p50(const Measured& measured) {
  return median(measured.at(Distance::mixed));
}

/// What a wait takes: half of an operation that moves next to nothing and waits twice.
double measure_wait_us(CpuBench& bench, const TuneOptions& options) {
  const Cell cell{Op::reduce_scatter_all_reduce,
                  std::vector<std::size_t>(static_cast<std::size_t>(options.dp), 1),
                  false,
                  Buffers::symmetric,
                  {{Algorithm::two_shot}}};
  return p50(bench.measure(cell, {.iterations = 512, .seconds = 0}).variants[0]) / 2;
}

/// Of interrupted measurements there are slow ones, but none too quick: the best one counts.
void add_costs(TuningTable& table, const TuneOptions& options, const SweepPoint& point,
               const CellResult& result) {
  if (point.bytes != bound_bytes) return;
  const double copying_us = p50(result.bound) - table.costs.wait_us;
  const double bytes = wire_bytes(point.cell.op, options.tp, options.dp, point.bytes);
  if (copying_us > 0)
    table.costs.read_gbps = std::max(table.costs.read_gbps, rounded(bytes / copying_us / 1000));
  table.costs.flag_us = rounded(median(result.flags_ns) / 1000);
}

TuningTable measure(Bootstrap& bootstrap, const TuneOptions& options, const TuneProgress& progress) {
  TuningTable table{.machine = machine_name(),
                    .backend = options.backend,
                    .tp = options.tp,
                    .dp = options.dp,
                    .crowded = options.tp * options.dp > cpu::usable_processors(cpu::exchange_processors(
                                                             bootstrap, cpu::own_processors({}))),
                    .costs = {},
                    .choices = {}};
  const std::vector<Variant> candidates{{Algorithm::one_shot}, {Algorithm::two_shot}};
  const Sweep sweep{.tp = options.tp, .dp = options.dp, .most_bytes = options.most_bytes};
  std::vector<SweepPoint> points = points_of(sweep);
  // One thread where each rank is bound to one processor.
  Communicator communicator(bootstrap, {.tp = options.tp,
                                        .dp = options.dp,
                                        .timeout = options.timeout,
                                        .cpu = {.threads = options.binds ? 1 : 0}});
  const std::vector<std::unique_ptr<mpi::Job>> no_jobs;
  std::size_t most = 0;
  for (SweepPoint& point : points) {
    point.cell.variants = candidates;
    most = std::max(most, point.bytes);
  }
  CpuBench bench(bootstrap, communicator,
                 {.hidden = sweep.hidden, .dtype = sweep.dtype, .most_bytes = most, .probes = options.binds},
                 no_jobs);
  CpuBench tiny(bootstrap, communicator,
                {.hidden = 1, .dtype = sweep.dtype, .most_bytes = 4096, .probes = false}, no_jobs);
  if (options.binds)
    bind_to_processors_of(bootstrap.rank());  // now that they know how many processors there are
  table.costs.wait_us = rounded(measure_wait_us(tiny, options));
  const Effort effort{.iterations = 0, .seconds = options.seconds / static_cast<double>(points.size())};
  std::unique_ptr<ChoiceMaker> maker;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto& [cell, bytes] = points[i];
    if (progress && bootstrap.rank() == 0)
      progress(i, points.size(), fmt::format("{}, {} bytes, {}", name(cell.op), bytes, name(cell.buffers)));
    const CellResult result = bench.measure(cell, effort);
    if (!result.wrong.empty()) throw Error(fmt::format("a result is wrong: {}", result.wrong));
    if (i == 0 || points[i - 1].cell.op != cell.op || points[i - 1].cell.buffers != cell.buffers) {
      if (maker) add_choice(table, maker->finish());
      maker = std::make_unique<ChoiceMaker>(cell.op, cell.buffers == Buffers::symmetric, candidates);
    }
    maker->add(bytes, {p50(result.variants[0]), p50(result.variants[1])});
    add_costs(table, options, points[i], result);
  }
  if (maker) add_choice(table, maker->finish());
  return table;
}

}  // namespace

TuningTable agree_on(Bootstrap& bootstrap, const std::string& text) {
  const auto texts = exchange_long(bootstrap, "sharing the tuning table", bootstrap.rank() == 0 ? text : "");
  TuningTable table = TuningTable::parse(texts.front(), "of rank 0");
  const auto hashes = bootstrap.exchange("comparing tuning tables", fmt::format("{:016x}", table.hash()));
  for (std::size_t r = 0; r < hashes.size(); ++r)
    if (hashes[r] != hashes[0])
      throw Disagreement(fmt::format("rank {} has read a tuning table with hash {}, but rank 0 has {}", r,
                                     hashes[r], hashes[0]));
  return table;
}

void check_tunable(const TuneOptions& options) {
  if (static_cast<long>(options.tp) * options.dp == 1)
    throw InvalidArgument("one rank has no algorithm to choose; give tp or dp above 1");
  if (options.most_bytes < least_most_bytes || options.most_bytes > most_most_bytes)
    throw InvalidArgument(fmt::format("the largest tensor is to have {} bytes; it may have {} to {}",
                                      options.most_bytes, least_most_bytes, most_most_bytes));
}

TuningTable measure_tuning(Bootstrap& bootstrap, const TuneOptions& options, const TuneProgress& progress) {
  check_tunable(options);
  return agree_on(bootstrap, measure(bootstrap, options, progress).text());
}

}  // namespace mixcomm::tools
