// mixcomm tune: measures which algorithm pays where, and writes a table of it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "cpu/cpu_backend.hpp"
#include "tools/bench_cpu.hpp"
#include "tools/machine.hpp"
#include "tools/options.hpp"
#include "tools/output.hpp"
#include "tools/ranks.hpp"
#include "tools/statistics.hpp"
#include "tools/traffic.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(Each operation is measured with each algorithm, in symmetric and in plain memory, for tensors from 4 KiB to --most-bytes, in
turns as in 'mixcomm bench'. The table says which algorithm was quicker up to how many bytes, and what a wait and a byte cost. It
is for this machine, this grid and this backend alone, and refused elsewhere. All ranks take rank 0's table, and check its hash
when they have read it back. Without a table the library goes by static rules.

Examples:
  mixcomm tune --tp 2 --dp 1 --out tuning.json
  mixcomm bench --tp 2 --dp 1 --algorithm auto --tuning tuning.json
  MIXCOMM_TUNING=tuning.json mixcomm check --tp 2 --dp 1 --quick
  mixcomm run -n 4 -- mixcomm tune --tp 2 --dp 2 --out tuning.json)";

struct TuneOptions {
  int tp = 2;
  int dp = 1;
  BackendKind backend = BackendKind::cpu;
  double seconds = 40;
  std::size_t most_bytes = std::size_t{4} << 20U;
  std::string path = "mixcomm-tuning.json";
  RankFlags ranks;
};

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

TuningTable measure(Bootstrap& bootstrap, const TuneOptions& options, bool binds) {
  TuningTable table{.machine = machine_name(),
                    .backend = options.backend,
                    .tp = options.tp,
                    .dp = options.dp,
                    .crowded = options.tp * options.dp > cpu::usable_processors(bootstrap),
                    .costs = {},
                    .choices = {}};
  const std::vector<Point> points = points_of(options);
  Communicator communicator(bootstrap,
                            {.tp = options.tp, .dp = options.dp, .timeout = options.ranks.timeout()});
  const std::vector<std::unique_ptr<mpi::Job>> no_jobs;
  std::size_t most = 0;
  for (const Point& point : points) most = std::max(most, point.bytes);
  CpuBench bench(bootstrap, communicator,
                 {.hidden = hidden, .dtype = dtype, .most_bytes = most, .binds = false, .probes = binds},
                 no_jobs);
  CpuBench tiny(bootstrap, communicator,
                {.hidden = 1, .dtype = dtype, .most_bytes = 4096, .binds = false, .probes = false}, no_jobs);
  if (binds) bind_to_processor_of(bootstrap.rank());  // now that they know how many processors there are
  table.costs.wait_us = rounded(measure_wait_us(tiny, options));
  std::unique_ptr<Progress> progress;
  if (bootstrap.rank() == 0) progress = std::make_unique<Progress>("tune");
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
    if (progress)
      progress->update(i, points.size(),
                       fmt::format("{}, {} bytes, {}", name(cell.op), bytes, name(cell.buffers)));
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

void print(const TuningTable& table) {
  fmt::print("{} x {} ranks on {} ({})\n", table.tp, table.dp, table.machine,
             table.crowded ? "more ranks than processors" : "a processor for each");
  fmt::print("a wait takes {:.2f} us, a flag {:.3f} us; ranks read {:.1f} GB/s each of what others wrote\n",
             table.costs.wait_us, table.costs.flag_us, table.costs.read_gbps);
  for (const auto& choice : table.choices) {
    std::string steps;
    for (const auto& step : choice.steps)
      steps += step.up_to_bytes != UINT64_MAX
                   ? fmt::format("{} up to {} bytes, ", name(step.algorithm), step.up_to_bytes)
                   : fmt::format("{}{}", steps.empty() ? "" : "then ", name(step.algorithm));
    fmt::print("  {:26} {:10} {}\n", name(choice.op), choice.symmetric ? "symmetric" : "plain", steps);
  }
}

int tune(const TuneOptions& options) {
  if (options.backend == BackendKind::cuda)
    throw Unsupported(
        "tune --backend cuda: only the CPU backend is measured so far; the static rules serve on CUDA");
  const int world = world_of(options.tp, options.dp);
  if (world == 1) throw InvalidArgument("one rank has no algorithm to choose; give --tp or --dp above 1");
  const bool binds = launched_world() == 0;
  const auto [json, prints] =
      run_ranks({.world = world, .processes = options.ranks.processes, .timeout = options.ranks.timeout()},
                [&](Bootstrap& bootstrap) {
                  const TuningTable table = agree_on(bootstrap, measure(bootstrap, options, binds));
                  return Json{{"table", table.text()}};
                });
  if (!prints) return all_well;
  const TuningTable table = TuningTable::parse(json["table"].get<std::string>(), "of the ranks");
  table.save(options.path);
  if (TuningTable::load(options.path).hash() != table.hash())
    throw SystemError(fmt::format("{} does not hold what was written to it", options.path));
  print(table);
  fmt::print("written to {}\n", options.path);
  return all_well;
}

}  // namespace

void add_tune(CLI::App& app, Invocation& invocation) {
  auto* sub = app.add_subcommand("tune", "Measure which algorithm pays where on this machine");
  sub->footer(examples);
  const auto options = std::make_shared<TuneOptions>();
  const CLI::Range ranks(1, max_ranks);
  sub->add_option("--tp", options->tp, "Ranks of tensor parallelism (2)")->check(ranks);
  sub->add_option("--dp", options->dp, "Ranks of data parallelism (1)")->check(ranks);
  add_named(*sub, "--backend", options->backend, backend_from_name, "cpu (default)");
  sub->add_option("--seconds", options->seconds, "Time for all measurements together (40)")
      ->check(CLI::Range(0.0, 3600.0));
  sub->add_option("--most-bytes", options->most_bytes, "The largest tensor (4194304)")
      ->check(CLI::Range(std::size_t{4096}, std::size_t{1} << 30U));
  sub->add_option("--out", options->path, "Where the table goes (mixcomm-tuning.json)")->type_name("FILE");
  add_rank_flags(*sub, options->ranks);
  sub->callback([&invocation, options] { invocation.action = [options] { return tune(*options); }; });
}

}  // namespace mixcomm::tools
