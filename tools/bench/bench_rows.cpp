#include "tools/bench/bench_rows.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "measure/statistics.hpp"
#include "mixcomm/cost.hpp"
#include "tools/command/machine.hpp"

namespace mixcomm::tools {
namespace {

constexpr Variant composed{.algorithm = Algorithm::composed};
constexpr Variant nccl{.algorithm = Algorithm::nccl};
constexpr Variant separate{.algorithm = Algorithm::automatic, .finish = Finish::behind};
constexpr Variant alone{.algorithm = Algorithm::automatic, .finish = Finish::without};

/// Under which name a row shows another variant's p50.
std::string name_of(const Variant& variant) {
  if (variant.finish == Finish::behind) return "separate";
  if (variant.finish == Finish::without) return "alone";
  return std::string(name(variant.algorithm));
}

void add(std::vector<Variant>& variants, const Variant& variant) {
  if (std::find(variants.begin(), variants.end(), variant) == variants.end()) variants.push_back(variant);
}

/// What choose() is asked about: with counts in device memory, the library knows the largest alone.
std::size_t known_bytes(const BenchOptions& options, const GridSize& grid, const Cell& cell) {
  if (!cell.rows_on_device || cell.op == Op::all_reduce)
    return tensor_bytes(cell, options.hidden, options.dtype);
  const std::size_t most = *std::max_element(cell.rows.begin(), cell.rows.end());
  return most * static_cast<std::size_t>(grid.dp) * options.hidden * size_of(options.dtype);
}

std::size_t known_block_bytes(const BenchOptions& options, const Cell& cell) {
  return *std::max_element(cell.rows.begin(), cell.rows.end()) * options.hidden * size_of(options.dtype);
}

/// Every shape that was asked for, of those that the algorithm has.
std::vector<LaunchShape> shapes_of(const BenchOptions& options, Algorithm algorithm) {
  if (!options.backend.cuda()) return {{}};
  std::vector<LaunchShape> shapes;
  for (const Protocol protocol : options.protocols)
    for (const int lanes : options.lanes)
      for (const int threads : options.threads)
        if (algorithm == Algorithm::two_shot || protocol != Protocol::barriers)
          shapes.push_back({protocol, lanes, threads});
  return shapes;
}

Row row_of(const BenchOptions& options, const GridSize& grid, Link link, Cell cell) {
  Row row{grid, std::move(cell), {}, {}};
  const bool cuda = options.backend.cuda();
  row.chosen = choose({.op = row.cell.op,
                       .tp = grid.tp,
                       .dp = grid.dp,
                       .bytes = known_bytes(options, grid, row.cell),
                       .symmetric = row.cell.buffers == Buffers::symmetric,
                       .largest_block_bytes = known_block_bytes(options, row.cell),
                       .crowded = !cuda && grid.world() > processors_at_start(),
                       .backend = options.backend.kind,
                       .link = link,
                       .tuning = options.tuning ? &*options.tuning : nullptr,
                       .epilogue = row.cell.epilogue != EpilogueKind::none,
                       .lanes = cuda ? 1 : std::max(options.threads.front(), 1)});
  // Where ranks share processors, the library learns what is quicker while it runs.
  const bool learns = !cuda && grid.world() > processors_at_start() && !options.tuning;
  for (const Algorithm each : options.algorithms) {
    const Algorithm algorithm = each == Algorithm::automatic && !learns ? row.chosen : each;
    if (algorithm == Algorithm::one_shot || algorithm == Algorithm::two_shot)
      for (const LaunchShape& shape : shapes_of(options, algorithm)) add(row.wanted, {algorithm, shape});
    else
      add(row.wanted, {algorithm, {}});
  }
  row.cell.variants = row.wanted;
  add(row.cell.variants, composed);
  if (row.cell.epilogue != EpilogueKind::none) {
    add(row.cell.variants, separate);
    add(row.cell.variants, alone);
  } else if (options.needs_nccl()) {  // which has no epilogues
    add(row.cell.variants, nccl);
  }
  return row;
}

std::string algorithm_text(const Json& row) {
  std::string text = row["algorithm"].get<std::string>();
  if (row["backend"] == name(BackendKind::cpu)) return text + (row["chosen"].get<bool>() ? " *" : "");
  if (row.contains("protocol")) text += "/" + row["protocol"].get<std::string>();
  if (row.contains("lanes") || row.contains("threads"))
    text += fmt::format("/{}x{}", row.value("lanes", 0), row.value("threads", 0));
  return text + (row["chosen"].get<bool>() ? " *" : "");
}

}  // namespace

bool BenchOptions::needs_nccl() const {
  return std::find(against.begin(), against.end(), "nccl") != against.end() ||
         std::find(algorithms.begin(), algorithms.end(), Algorithm::nccl) != algorithms.end();
}

bool BenchOptions::has_epilogues() const {
  return epilogues != std::vector{EpilogueKind::none};
}

std::vector<Row> rows_of(const BenchOptions& options, const GridSize& grid, Link link) {
  std::vector<Row> rows;
  for (const Op op : options.ops)
    for (const auto& counts : options.rows.per_dp_rank(grid.dp))
      for (const Buffers buffers : options.buffers)
        for (const EpilogueKind epilogue : options.epilogues)
          rows.push_back(
              row_of(options, grid, link,
                     {op, counts, options.rows_on_device, buffers, {}, epilogue, options.in_place}));
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

Json cell_json(const BenchOptions& options, const Row& row, const std::vector<Latencies>& latencies,
               const Json& more) {
  const auto measured = [&](const Variant& variant) -> const Latencies& {
    static const Latencies none;
    const auto& all = row.cell.variants;
    const auto found = std::find(all.begin(), all.end(), variant);
    return found == all.end() ? none : latencies[static_cast<std::size_t>(found - all.begin())];
  };
  Json results = Json::array();
  for (const Variant& variant : row.wanted) {
    if (measured(variant).empty()) continue;
    const std::size_t bytes = tensor_bytes(row.cell, options.hidden, options.dtype);
    const double p50 = rounded(percentile(measured(variant), 0.5));
    Json against = Json::object();
    for (const Variant& other : {composed, nccl, separate, alone})
      if (variant != other && !measured(other).empty())
        against[name_of(other)] = rounded(percentile(measured(other), 0.5));
    const double gbps = p50 > 0 ? wire_bytes(row.cell.op, row.grid.tp, row.grid.dp, bytes) / p50 / 1000 : 0;
    const bool chosen = (variant.algorithm == row.chosen || variant.algorithm == Algorithm::automatic) &&
                        variant.shape == LaunchShape{};
    Json result{{"op", name(row.cell.op)},
                {"backend", name(options.backend.kind)},
                {"tp", row.grid.tp},
                {"dp", row.grid.dp},
                {"rows", row.cell.rows},
                {"hidden", options.hidden},
                {"dtype", name(options.dtype)},
                {"algorithm", name(variant.algorithm)},
                {"buffers", name(row.cell.buffers)},
                {"epilogue", name(row.cell.epilogue)},
                {"p50_us", p50},
                {"p99_us", rounded(percentile(measured(variant), 0.99))},
                {"bytes", bytes},
                {"busbw_gbps", rounded(gbps)},
                {"chosen", chosen},
                {"against", against}};
    if (row.cell.in_place) result["in_place"] = true;
    const LaunchShape& shape = variant.shape;
    if (shape.protocol != Protocol::automatic) result["protocol"] = name(shape.protocol);
    if (shape.lanes != 0) result["lanes"] = shape.lanes;
    if (shape.threads != 0) result["threads"] = shape.threads;
    if (row.cell.rows_on_device)
      result["rows_on_device"] =
          variant.algorithm != Algorithm::composed && variant.algorithm != Algorithm::nccl;
    result.update(more);
    results.push_back(std::move(result));
  }
  return results;
}

std::string rows_text(const std::vector<std::size_t>& rows) {
  const bool even = std::all_of(rows.begin(), rows.end(), [&](std::size_t n) { return n == rows[0]; });
  return even ? std::to_string(rows[0]) : fmt::format("{}", fmt::join(rows, ","));
}

void print_table(const Json& results) {
  const auto has = [&](auto condition) { return std::any_of(results.begin(), results.end(), condition); };
  const bool with_epilogue = has([](const Json& row) { return row["epilogue"] != "none"; });
  const bool with_nccl = has([](const Json& row) { return row["against"].contains("nccl"); });
  std::size_t width = 11;
  for (const Json& row : results) width = std::max(width, algorithm_text(row).size());
  fmt::print("{:26} {:>5} {:>10} {:{}} {:10} {:>11} {:>11} {:>9} {:>9}{}{}\n", "op", "grid", "rows",
             "algorithm", width, "buffers", "p50 us", "p99 us", "GB/s", "composed",
             with_nccl ? "      nccl" : "", with_epilogue ? "  separate     added  epilogue" : "");
  for (const Json& row : results) {
    const Json& against = row["against"];
    const double p50 = row["p50_us"].get<double>();
    const auto ratio = [&](const char* other) {
      return against.contains(other) && p50 > 0 ? fmt::format("{:.2f}x", against[other].get<double>() / p50)
                                                : "";
    };
    const auto added = [&] {
      return against.contains("alone") ? fmt::format("{:+.2f}", p50 - against["alone"].get<double>()) : "";
    };
    fmt::print(
        "{:26} {:>5} {:>10} {:{}} {:10} {:>11.2f} {:>11.2f} {:>9.2f} {:>9}{}{}\n",
        row["op"].get<std::string>(), fmt::format("{}x{}", row["tp"].get<int>(), row["dp"].get<int>()),
        rows_text(row["rows"].get<std::vector<std::size_t>>()), algorithm_text(row), width,
        row["buffers"].get<std::string>(), p50, row["p99_us"].get<double>(), row["busbw_gbps"].get<double>(),
        ratio("composed"), with_nccl ? fmt::format(" {:>9}", ratio("nccl")) : "",
        with_epilogue
            ? fmt::format(" {:>9} {:>9}  {}", ratio("separate"), added(), row["epilogue"].get<std::string>())
            : "");
  }
  fmt::print(
      "* what the library would choose; composed: how many times as long the composed algorithm takes\n");
  if (with_epilogue)
    fmt::print(
        "separate: how many times as long the operation and the steps of the epilogue by themselves take; "
        "added: how many us more than the operation alone\n");
}

}  // namespace mixcomm::tools
