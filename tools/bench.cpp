// mixcomm bench: how long the operations take.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "tools/bench_cells.hpp"
#include "tools/machine.hpp"
#include "tools/output.hpp"
#include "tools/ranks.hpp"
#include "tools/statistics.hpp"
#include "tools/traffic.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(Before each call every rank writes new inputs, and all ranks meet at a barrier; a call takes as long as on its slowest
rank. The algorithms of a cell take turns of some calls each. `composed` runs the two collectives of today one after the
other; it is always measured along, and the ratio is composed's p50 over this one's.

`bytes` are those of the tensor with all rows. busbw is what each rank must receive at the least, over p50, as in
nccl-tests: 2(n-1)/n * bytes for all_reduce, (n-1)/n * bytes for all_gather and reduce_scatter; for the fused operations
(tp-1)/tp * bytes/dp, of a reduce-scatter over tp, plus (n-1)/n * bytes, of an all-gather over all n ranks (or backwards).

Examples:
  mixcomm bench --tp 2 --dp 1 --rows 1,4,16,64 --hidden 4096
  mixcomm bench --op all_reduce_all_gather --tp 2 --dp 2 --uneven 3,0 --algorithm all --buffers all
  mixcomm bench --op all --tp 2 --dp 2 --processes --json bench.json
  mpirun -n 4 mixcomm bench --tp 2 --dp 2)";

struct BenchOptions {
  int tp = 2;
  int dp = 1;
  std::vector<Op> ops = op_flag().all;
  RowFlags rows{.equal = {1, 4, 16, 64, 256}, .uneven = {}};
  std::size_t hidden = 4096;
  DType dtype = DType::bf16;
  std::vector<Algorithm> algorithms = algorithms_flag().all;
  std::vector<Buffers> buffers{Buffers::symmetric};
  std::string backend = "cpu";
  std::vector<std::string> against;
  Effort effort;
  std::string json_path;
  RankFlags ranks;
};

/// A cell, and which of its measured algorithms are rows of the result.
struct Row {
  Cell cell;
  std::vector<Algorithm> wanted;
  Algorithm chosen;
};

std::vector<Row> rows_of(const BenchOptions& options) {
  std::vector<Row> rows;
  for (const Op op : options.ops)
    for (const auto& counts : options.rows.per_dp_rank(options.dp))
      for (const Buffers buffers : options.buffers) {
        Row row{{op, counts, buffers, {}}, {}, {}};
        row.chosen = choose({.op = op,
                             .tp = options.tp,
                             .dp = options.dp,
                             .bytes = tensor_bytes(row.cell, options.hidden, options.dtype),
                             .symmetric = buffers == Buffers::symmetric,
                             .crowded = options.tp * options.dp > usable_processors()});
        for (const Algorithm each : options.algorithms) {
          const Algorithm algorithm = each == Algorithm::automatic ? row.chosen : each;
          if (std::find(row.wanted.begin(), row.wanted.end(), algorithm) == row.wanted.end())
            row.wanted.push_back(algorithm);
        }
        row.cell.algorithms = row.wanted;
        if (std::find(row.wanted.begin(), row.wanted.end(), Algorithm::composed) == row.wanted.end())
          row.cell.algorithms.push_back(Algorithm::composed);
        rows.push_back(std::move(row));
      }
  return rows;
}

std::size_t most_bytes(const BenchOptions& options, const std::vector<Row>& rows) {
  std::size_t most = 0;
  for (const Row& row : rows) most = std::max(most, tensor_bytes(row.cell, options.hidden, options.dtype));
  constexpr std::size_t limit = std::size_t{1} << 36U;
  if (most > limit)
    throw InvalidArgument(
        fmt::format("the largest tensor would have {} bytes, more than {}; ask for fewer rows or a smaller "
                    "hidden",
                    most, limit));
  return most;
}

double rounded(double value) {
  return std::round(value * 1000) / 1000;
}

Json cell_json(const BenchOptions& options, const Row& row, const std::vector<Latencies>& latencies) {
  const auto measured = [&](Algorithm algorithm) -> const Latencies& {
    const auto& all = row.cell.algorithms;
    return latencies[static_cast<std::size_t>(std::find(all.begin(), all.end(), algorithm) - all.begin())];
  };
  Json results = Json::array();
  for (const Algorithm algorithm : row.wanted) {
    const std::size_t bytes = tensor_bytes(row.cell, options.hidden, options.dtype);
    const double p50 = rounded(percentile(measured(algorithm), 0.5));
    Json against = Json::object();
    if (algorithm != Algorithm::composed)
      against["composed"] = rounded(percentile(measured(Algorithm::composed), 0.5));
    const double gbps = p50 > 0 ? wire_bytes(row.cell.op, options.tp, options.dp, bytes) / p50 / 1000 : 0;
    results.push_back({{"op", name(row.cell.op)},
                       {"backend", "cpu"},
                       {"tp", options.tp},
                       {"dp", options.dp},
                       {"rows", row.cell.rows},
                       {"hidden", options.hidden},
                       {"dtype", name(options.dtype)},
                       {"algorithm", name(algorithm)},
                       {"buffers", name(row.cell.buffers)},
                       {"p50_us", p50},
                       {"p99_us", rounded(percentile(measured(algorithm), 0.99))},
                       {"bytes", bytes},
                       {"busbw_gbps", rounded(gbps)},
                       {"chosen", algorithm == row.chosen},
                       {"against", against}});
  }
  return results;
}

Json measure(Bootstrap& bootstrap, const BenchOptions& options, const std::vector<Row>& rows) {
  Communicator communicator(bootstrap,
                            {.tp = options.tp, .dp = options.dp, .timeout = options.ranks.timeout()});
  Bench bench(bootstrap, communicator, options.hidden, options.dtype, most_bytes(options, rows));
  std::unique_ptr<Progress> progress;
  if (bootstrap.rank() == 0) progress = std::make_unique<Progress>("bench");
  Json results = Json::array();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (progress) progress->update(i, rows.size(), name(rows[i].cell.op));
    const auto latencies = bench.measure(rows[i].cell, options.effort);
    if (bootstrap.rank() != 0) continue;
    for (Json& result : cell_json(options, rows[i], latencies)) results.push_back(std::move(result));
  }
  return results;
}

std::string rows_text(const std::vector<std::size_t>& rows) {
  const bool even = std::all_of(rows.begin(), rows.end(), [&](std::size_t n) { return n == rows[0]; });
  return even ? std::to_string(rows[0]) : fmt::format("{}", fmt::join(rows, ","));
}

void print_table(const Json& results) {
  fmt::print("{:26} {:>5} {:>10} {:11} {:10} {:>11} {:>11} {:>9} {:>9}\n", "op", "grid", "rows", "algorithm",
             "buffers", "p50 us", "p99 us", "GB/s", "composed");
  for (const Json& row : results) {
    const Json& against = row["against"];
    const double p50 = row["p50_us"].get<double>();
    const std::string ratio = against.contains("composed") && p50 > 0
                                  ? fmt::format("{:.2f}x", against["composed"].get<double>() / p50)
                                  : "";
    fmt::print("{:26} {:>5} {:>10} {:11} {:10} {:>11.2f} {:>11.2f} {:>9.2f} {:>9}\n",
               row["op"].get<std::string>(), fmt::format("{}x{}", row["tp"].get<int>(), row["dp"].get<int>()),
               rows_text(row["rows"].get<std::vector<std::size_t>>()),
               row["algorithm"].get<std::string>() + (row["chosen"].get<bool>() ? " *" : ""),
               row["buffers"].get<std::string>(), p50, row["p99_us"].get<double>(),
               row["busbw_gbps"].get<double>(), ratio);
  }
  fmt::print(
      "* what the library would choose; composed: how many times as long the composed algorithm takes\n");
}

int bench(const BenchOptions& options, const std::string& command_line) {
  check_backend(options.backend);
  for (const std::string& other : options.against)
    if (other != "composed")
      throw Unsupported(fmt::format("--against {}: this build compares with composed alone", other));
  const int world = world_of(options.tp, options.dp);
  const std::vector<Row> rows = rows_of(options);
  (void)most_bytes(options, rows);  // before any rank is started
  JsonFile file(this_process_prints() ? options.json_path : "");
  const auto [results, prints] =
      run_ranks({.world = world, .processes = options.ranks.processes, .timeout = options.ranks.timeout()},
                [&](Bootstrap& bootstrap) { return measure(bootstrap, options, rows); });
  if (!prints) return all_well;
  file.write({{"machine", machine()}, {"command", command_line}, {"rows", results}});
  print_table(results);
  return all_well;
}

}  // namespace

void add_bench(CLI::App& app, Invocation& invocation) {
  auto* sub = app.add_subcommand("bench", "Measure the operations");
  sub->footer(examples);
  const auto options = std::make_shared<BenchOptions>();
  add_backend_flag(*sub, options->backend);
  add_names(*sub, op_flag(), options->ops);
  sub->add_option("--tp", options->tp, "Ranks of tensor parallelism (2)")->check(CLI::Range(1, max_ranks));
  sub->add_option("--dp", options->dp, "Ranks of data parallelism (1)")->check(CLI::Range(1, max_ranks));
  add_row_flags(*sub, options->rows);
  sub->add_option("--hidden", options->hidden, "Elements of a row (4096)")->check(CLI::Range(1, most_rows));
  add_named(*sub, "--dtype", options->dtype, dtype_from_name, "bf16 (default), fp16 or fp32");
  add_names(*sub, algorithms_flag(), options->algorithms);
  add_names(
      *sub,
      {"--buffers", "Kinds of memory (symmetric)", buffers_from_name, {Buffers::symmetric, Buffers::plain}},
      options->buffers);
  sub->add_option("--against", options->against, "What to compare with: composed, which is always measured")
      ->type_name("NAME,...")
      ->delimiter(',');
  sub->add_option("--json", options->json_path, "Write the results to a file")->type_name("FILE");
  auto* iterations =
      sub->add_option("--iterations", options->effort.iterations, "Calls of each algorithm in each cell")
          ->check(CLI::Range(1, 1'000'000));
  sub->add_option("--seconds", options->effort.seconds, "Or: time for each cell (0.5)")
      ->check(CLI::Range(0.0, 3600.0))
      ->excludes(iterations);
  add_rank_flags(*sub, options->ranks);
  sub->callback([&invocation, options] {
    invocation.action = [&invocation, options] { return bench(*options, invocation.command_line); };
  });
}

}  // namespace mixcomm::tools
