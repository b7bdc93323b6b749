// What `mixcomm bench` is asked for, the cells that it measures, and how it shows them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "measure/bench_cells.hpp"
#include "tools/command/backend.hpp"
#include "tools/command/command.hpp"
#include "tools/command/options.hpp"

namespace mixcomm::tools {

struct BenchOptions {
  int tp = 2;
  int dp = 1;
  std::vector<std::string> grids;  ///< in place of tp and dp
  std::vector<Op> ops = op_flag().all;
  RowFlags rows{.equal = {1, 4, 16, 64, 256}, .uneven = {}};
  bool rows_on_device = false;
  std::size_t hidden = 4096;
  DType dtype = DType::bf16;
  std::vector<Algorithm> algorithms = algorithms_flag().all;
  std::vector<Protocol> protocols{Protocol::automatic};
  std::vector<int> lanes{0};    ///< LaunchShape::lanes, each with each protocol
  std::vector<int> threads{0};  ///< ... threads; CPU: of each rank, the first alone
  std::vector<Buffers> buffers{Buffers::symmetric};
  std::vector<EpilogueKind> epilogues{EpilogueKind::none};
  bool in_place = false;
  BackendFlags backend;
  std::vector<std::string> against;
  Effort effort;
  bool with_launch = false;         ///< graphs are launched when the device is idle, and that is timed, too
  std::size_t workspace_mib = 0;    ///< as the flag has it
  std::size_t workspace_bytes = 0;  ///< CommunicatorOptions::workspace_bytes
  int max_lanes = 0;                ///< CudaOptions::max_lanes
  std::string json_path;
  std::string tuning_path;
  std::optional<TuningTable> tuning;  ///< read from there
  RankFlags ranks;

  [[nodiscard]] bool needs_nccl() const;
  [[nodiscard]] bool has_epilogues() const;
};

/// A cell, and which of its measured variants are rows of the result.
struct Row {
  GridSize grid;
  Cell cell;
  std::vector<Variant> wanted;
  Algorithm chosen = Algorithm::automatic;
};

/// `link`: CUDA, between the ranks' GPUs.
[[nodiscard]] std::vector<Row> rows_of(const BenchOptions& options, const GridSize& grid, Link link);

/// Of the largest tensor. Throws InvalidArgument if no memory would hold it.
[[nodiscard]] std::size_t most_bytes(const BenchOptions& options, const std::vector<Row>& rows);

/// The objects of one cell in the JSON of the results; `latencies` by variant, empty for those that were not
/// measured. `more` is put into each.
[[nodiscard]] Json cell_json(const BenchOptions& options, const Row& row,
                             const std::vector<Latencies>& latencies, const Json& more);

void print_table(const Json& results);

/// "4", or "3,0,5" where they differ.
[[nodiscard]] std::string rows_text(const std::vector<std::size_t>& rows);

}  // namespace mixcomm::tools
