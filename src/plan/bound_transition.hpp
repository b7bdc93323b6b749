// A transition as one rank carries it out: all that does not change from step to step is looked up once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mixcomm/communicators.hpp"
#include "mixcomm/rows.hpp"
#include "mixcomm/transition.hpp"

namespace mixcomm {

/// One step. Its row counts have room here, so that carrying it out asks for no memory.
struct BoundStep {
  Step::Kind kind = Step::Kind::collective;
  Op op = Op::all_reduce;
  Communicator* communicator = nullptr;  ///< of what communicates
  std::size_t members = 1;               ///< gather_columns: how many slices of the columns there are
  bool keeps = true;                     ///< keep_one: this rank's value is the one that is summed
  int before = 1;                        ///< the widths of rows
  int after = 1;
  int block_width = 1;  ///< of the blocks that a collective counts

  /// How a collective counts rows that only the device knows.
  enum class DeviceRows : std::uint8_t {
    counts,  ///< its counts are the device's, from `first_count` on
    padded,  ///< an all_reduce of rows of several DP ranks: all rows of the tensor, whatever is in them
  };
  DeviceRows device_rows = DeviceRows::counts;
  std::ptrdiff_t first_count = 0;

  std::vector<std::size_t> counts{};  ///< room for one per DP rank of the grid

  /// The counts of its collective for these rows of a model's step; `in_rows`: of its input. Valid until it
  /// is called again.
  [[nodiscard]] RowCounts row_counts(const RowPlan& rows, int rank, std::size_t in_rows);
};

struct BoundTransition {
  std::vector<BoundStep> steps;
  int from = 1;  ///< the widths of rows
  int to = 1;
  std::size_t slices = 1;  ///< the output has so many times the input's columns
  bool communicates = false;
  std::string needs_host_counts;  ///< why it cannot go by counts in device memory; "": it can
};

/// Collective, where a grid is asked for the first time. Throws as Communicators::on() and spread_of() do.
[[nodiscard]] BoundTransition bind(const Transition& transition, const Parallelism& parallelism,
                                   Communicators& communicators);

}  // namespace mixcomm
