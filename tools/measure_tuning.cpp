#include "tools/measure_tuning.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "cpu/cpu_backend.hpp"
#include "mixcomm/error.hpp"
#include "tools/bench_cpu.hpp"
#include "tools/exchange_long.hpp"
#include "tools/processors.hpp"
#include "tools/statistics.hpp"
#include "tools/traffic.hpp"

namespace mixcomm::tools {
namespace {

constexpr DType dtype = DType::bf16;
constexpr std::size_t hidden = 2048;            ///< 4 KiB rows
constexpr std::size_t bound_bytes = 1U << 20U;  ///< where the bandwidth is read off
/// By so much a change of the algorithm must pay: less is noise.
constexpr double worth_a_step = 0.97;

/// One point of the sweep: an operation on a tensor of a size.
struct Point {
  Cell cell;
  std::size_t bytes = 0;
};

/// Operations to measure. Where tp or dp is 1, the fused ones are the simpler ones again: see alias_of().
std::vector<Op> ops_of(int tp, int dp) {
  if (tp == 1 || dp == 1) return {Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce};
  return {Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
          Op::reduce_scatter_all_reduce};
}

/// The simpler operation that runs the same body on the same ranks; `op` itself where there is none.
Op alias_of(Op op, int tp, int dp) {
  if (op == Op::all_reduce_all_gather && dp == 1) return Op::all_reduce;
  if (op == Op::all_reduce_all_gather && tp == 1) return Op::all_gather;
  if (op == Op::reduce_scatter_all_reduce && tp == 1) return Op::reduce_scatter;
  return op;
}

std::vector<Point> points_of(const TuneOptions& options) {
  std::vector<Point> points;
  const std::size_t row_bytes = hidden * size_of(dtype);
  for (const Op op : ops_of(options.tp, options.dp))
    for (const Buffers buffers : {Buffers::symmetric, Buffers::plain})
      for (std::size_t bytes = row_bytes; bytes <= options.most_bytes; bytes *= 4) {
        const auto dp = static_cast<std::size_t>(op == Op::all_reduce ? 1 : options.dp);
        const std::size_t rows = std::max<std::size_t>(bytes / row_bytes / dp, 1);
        Point point;
        point.cell = {op,
                      std::vector<std::size_t>(static_cast<std::size_t>(options.dp), rows),
                      false,
                      buffers,
                      {{Algorithm::one_shot}, {Algorithm::two_shot}}};
        point.bytes = tensor_bytes(point.cell, hidden, dtype);
        points.push_back(std::move(point));
      }
  return points;
}

/// Near and far alike: a table must serve for both.
double p50(const Measured& measured) {
  return median(measured.at(Distance::mixed));
}

double rounded(double value) {
  return std::round(value * 1000) / 1000;
}

/// Takes in the points of one operation and kind of memory, smallest first.
class ChoiceMaker {
 public:
  ChoiceMaker(Op op, bool symmetric) : choice_{op, symmetric, {}} {}

  void add(std::size_t bytes, double one_shot_us, double two_shot_us) {
    const double before = best_ == Algorithm::one_shot ? one_shot_us : two_shot_us;
    const double other = best_ == Algorithm::one_shot ? two_shot_us : one_shot_us;
    const bool changes = last_bytes_ == 0 ? other < before : other < before * worth_a_step;
    if (changes) {
      // Somewhere between the last point and this one: in the middle, as sizes go.
      if (last_bytes_ != 0)
        choice_.steps.push_back({static_cast<std::uint64_t>(std::sqrt(static_cast<double>(last_bytes_) *
                                                                      static_cast<double>(bytes))),
                                 best_});
      best_ = best_ == Algorithm::one_shot ? Algorithm::two_shot : Algorithm::one_shot;
    }
    last_bytes_ = bytes;
  }
  [[nodiscard]] TuningTable::Choice finish() {
    choice_.steps.push_back({UINT64_MAX, best_});
    return choice_;
  }

 private:
  TuningTable::Choice choice_;
  Algorithm best_ = Algorithm::one_shot;
  std::size_t last_bytes_ = 0;
};

/// What a wait takes: half of an operation that moves next to nothing and waits twice.
double measure_wait_us(CpuBench& bench, const TuneOptions& options) {
  const Op op = ops_of(options.tp, options.dp).back();
  const Cell cell{op,
                  std::vector<std::size_t>(static_cast<std::size_t>(options.dp), 1),
                  false,
                  Buffers::symmetric,
                  {{Algorithm::two_shot}}};
  return p50(bench.measure(cell, {.iterations = 512, .seconds = 0}).variants[0]) / 2;
}

/// Of interrupted measurements there are slow ones, but none too quick: the best one counts.
void add_costs(TuningTable& table, const TuneOptions& options, const Point& point, const CellResult& result) {
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
                    .crowded = options.tp * options.dp > cpu::usable_processors(bootstrap),
                    .costs = {},
                    .choices = {}};
  const std::vector<Point> points = points_of(options);
  Communicator communicator(bootstrap, {.tp = options.tp, .dp = options.dp, .timeout = options.timeout});
  const std::vector<std::unique_ptr<mpi::Job>> no_jobs;
  std::size_t most = 0;
  for (const Point& point : points) most = std::max(most, point.bytes);
  CpuBench bench(
      bootstrap, communicator,
      {.hidden = hidden, .dtype = dtype, .most_bytes = most, .binds = false, .probes = options.binds},
      no_jobs);
  CpuBench tiny(bootstrap, communicator,
                {.hidden = 1, .dtype = dtype, .most_bytes = 4096, .binds = false, .probes = false}, no_jobs);
  if (options.binds)
    bind_to_processor_of(bootstrap.rank());  // now that they know how many processors there are
  table.costs.wait_us = rounded(measure_wait_us(tiny, options));
  const Effort effort{.iterations = 0, .seconds = options.seconds / static_cast<double>(points.size())};
  std::unique_ptr<ChoiceMaker> maker;
  const auto finish_choice = [&] {
    if (!maker) return;
    TuningTable::Choice choice = maker->finish();
    table.choices.push_back(choice);
    const Op alias = alias_of(choice.op, options.tp, options.dp);
    if (alias == choice.op) return;
    choice.op = alias;
    table.choices.push_back(choice);
  };
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto& [cell, bytes] = points[i];
    if (progress && bootstrap.rank() == 0)
      progress(i, points.size(), fmt::format("{}, {} bytes, {}", name(cell.op), bytes, name(cell.buffers)));
    const CellResult result = bench.measure(cell, effort);
    if (!result.wrong.empty()) throw Error(fmt::format("a result is wrong: {}", result.wrong));
    if (i == 0 || points[i - 1].cell.op != cell.op || points[i - 1].cell.buffers != cell.buffers) {
      finish_choice();
      maker = std::make_unique<ChoiceMaker>(cell.op, cell.buffers == Buffers::symmetric);
    }
    maker->add(bytes, p50(result.variants[0]), p50(result.variants[1]));
    add_costs(table, options, points[i], result);
  }
  finish_choice();
  return table;
}

/// Rank 0's table on every rank, which all have read alike.
TuningTable agree_on(Bootstrap& bootstrap, const TuningTable& mine) {
  const std::string text =
      exchange_long(bootstrap, "sharing the tuning table", bootstrap.rank() == 0 ? mine.text() : "").front();
  TuningTable table = TuningTable::parse(text, "of rank 0");
  const auto hashes = bootstrap.exchange("comparing tuning tables", fmt::format("{:016x}", table.hash()));
  for (std::size_t r = 0; r < hashes.size(); ++r)
    if (hashes[r] != hashes[0])
      throw Disagreement(fmt::format("rank {} has read a tuning table with hash {}, but rank 0 has {}", r,
                                     hashes[r], hashes[0]));
  return table;
}

}  // namespace

void check_tunable(const TuneOptions& options) {
  if (options.backend == BackendKind::cuda)
    throw Unsupported("tune: only the CPU backend is measured so far; the static rules serve on CUDA");
  if (static_cast<long>(options.tp) * options.dp == 1)
    throw InvalidArgument("one rank has no algorithm to choose; give tp or dp above 1");
  if (options.most_bytes < least_most_bytes || options.most_bytes > most_most_bytes)
    throw InvalidArgument(fmt::format("the largest tensor is to have {} bytes; it may have {} to {}",
                                      options.most_bytes, least_most_bytes, most_most_bytes));
}

TuningTable measure_tuning(Bootstrap& bootstrap, const TuneOptions& options, const TuneProgress& progress) {
  check_tunable(options);
  return agree_on(bootstrap, measure(bootstrap, options, progress));
}

}  // namespace mixcomm::tools
