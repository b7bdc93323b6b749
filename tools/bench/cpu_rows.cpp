#include "tools/bench/cpu_rows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "measure/statistics.hpp"

namespace mixcomm::tools {
namespace {

constexpr std::size_t least_chunks = 2;  ///< of each contestant, or nothing is said of that distance

std::size_t chunks_at(const Measured& measured, Distance distance) {
  if (distance == Distance::mixed) return measured.chunks.size();
  return static_cast<std::size_t>(std::count_if(measured.chunks.begin(), measured.chunks.end(),
                                                [&](const Chunk& c) { return c.distance == distance; }));
}

/// Of the contestant that has the fewest.
std::size_t chunks_at(const CellResult& result, Distance distance) {
  std::size_t fewest = chunks_at(result.bound, distance);
  for (const auto* some : {&result.variants, &result.jobs})
    for (const Measured& each : *some)
      if (each.takes_part) fewest = std::min(fewest, chunks_at(each, distance));
  return fewest;
}

/// p50 of each MPI, at its best, and with which settings that was.
void add_jobs(Json& row, const CellResult& result, const std::vector<std::unique_ptr<mpi::Job>>& jobs,
              Distance distance) {
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (!result.jobs[i].takes_part) continue;
    const std::string& flavour = jobs[i]->flavour();
    const double p50 = rounded(median(result.jobs[i].at(distance)));
    if (row["against"].contains(flavour) && row["against"][flavour].get<double>() <= p50) continue;
    row["against"][flavour] = p50;
    row["settings"][flavour] = jobs[i]->setting();
  }
}

double flag_ns(const CellResult& result, Distance distance) {
  Latencies some;
  for (const double ns : result.flags_ns)
    if (distance == Distance::mixed || distance_of(ns, ns) == distance) some.push_back(ns);
  return std::round(median(std::move(some)));
}

Json rows_at(const BenchOptions& options, const Row& row, const CellResult& result, Distance distance) {
  std::vector<Latencies> latencies;
  for (const Measured& variant : result.variants) latencies.push_back(variant.at(distance));
  Json more{{"distance", name(distance)},
            {"flag_ns", flag_ns(result, distance)},
            {"chunks", chunks_at(result, distance)},
            {"bound_us", rounded(median(result.bound.at(distance)))}};
  if (result.copy_us > 0) {
    const auto bytes = static_cast<double>(tensor_bytes(row.cell, options.hidden, options.dtype));
    more["copy_gbps"] = rounded(bytes / result.copy_us / 1000);
  }
  return cell_json(options, row, latencies, more);
}

}  // namespace

Json cpu_cell_json(const BenchOptions& options, const Row& row, const CellResult& result,
                   const std::vector<std::unique_ptr<mpi::Job>>& jobs) {
  const bool far = chunks_at(result, Distance::far) > chunks_at(result, Distance::near);
  const Distance other = far ? Distance::near : Distance::far;
  Distance shown = far ? Distance::far : Distance::near;
  // Where it changed all the time, no distance has chunks of all contestants; then all count that there are.
  if (chunks_at(result, shown) == 0) shown = Distance::mixed;
  Json rows = rows_at(options, row, result, shown);
  for (Json& each : rows) add_jobs(each, result, jobs, shown);
  if (chunks_at(result, other) < least_chunks) return rows;
  const Json others = rows_at(options, row, result, other);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Json full = others[i];
    add_jobs(full, result, jobs, other);
    Json& short_one = rows[i]["other_distance"];
    for (const char* key :
         {"distance", "flag_ns", "chunks", "p50_us", "p99_us", "bound_us", "against", "settings"})
      if (full.contains(key)) short_one[key] = full[key];
  }
  return rows;
}

void print_cpu_table(const Json& results) {
  std::vector<std::string> others;
  for (const std::string& name : mpi::flavour_names())
    if (std::any_of(results.begin(), results.end(),
                    [&](const Json& r) { return r["against"].contains(name); }))
      others.push_back(name);
  fmt::print("\n{:26} {:>5} {:>10} {:11} {:10} {:>8} {:>9} {:>9}", "op", "grid", "rows", "algorithm",
             "buffers", "distance", "bound us", "of bound");
  const bool with_epilogue =
      std::any_of(results.begin(), results.end(), [](const Json& r) { return r["epilogue"] != "none"; });
  for (const std::string& other : others) fmt::print(" {:>9}", other);
  fmt::print("{}\n", with_epilogue ? "  epilogue" : "");
  const auto print_one = [&](const Json& row, const Json& values) {
    const double p50 = values["p50_us"].get<double>();
    const double bound = values["bound_us"].get<double>();
    fmt::print("{:26} {:>5} {:>10} {:11} {:10} {:>8} {:>9.2f} {:>9.2f}", row["op"].get<std::string>(),
               fmt::format("{}x{}", row["tp"].get<int>(), row["dp"].get<int>()),
               rows_text(row["rows"].get<std::vector<std::size_t>>()), row["algorithm"].get<std::string>(),
               row["buffers"].get<std::string>(), values["distance"].get<std::string>(), bound,
               bound > 0 ? p50 / bound : 0);
    const Json& against = values["against"];
    for (const std::string& other : others)
      fmt::print(" {:>9}",
                 against.contains(other) ? fmt::format("{:.2f}", p50 / against[other].get<double>()) : "");
    fmt::print("{}\n", with_epilogue ? "  " + row["epilogue"].get<std::string>() : "");
  };
  for (const Json& row : results) {
    print_one(row, row);
    if (row.contains("other_distance")) print_one(row, row["other_distance"]);
  }
  fmt::print(
      "distance: near or far, as the processors were around these calls; bound: one meeting of the ranks and "
      "the copies of as many bytes, measured in turns with the rest; of bound, and under the name of another "
      "library: p50 over that one's p50\n");
}

}  // namespace mixcomm::tools
