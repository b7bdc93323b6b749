// How many lanes, threads and passes an operation with an epilogue takes: pure host code, the same on all
// ranks.
#pragma once

#include <cstddef>

#include "cuda/launch.hpp"
#include "cuda/row_arguments.hpp"
#include "cuda/row_kernels.hpp"

namespace mixcomm::cuda {

struct RowLaunch {
  RowKind kind = RowKind::packets;
  int lanes = 1;
  int threads = 32;
  int passes = 1;
  std::size_t lane_bytes = 0;      ///< of one lane in one area of the workspace
  BasicBlocks<most_ranks> blocks;  ///< of rows, cut into lanes x passes pieces
  RowImages images;
  RowDeal deal;
  RowDeal out_deal;
  std::uint32_t rows_at_once = 1;
  bool images_in_workspace = false;
  std::size_t weight_bytes = 0;  ///< for a copy of the norm's weight, in shared memory; 0: there is none
  std::size_t shared_bytes = 0;  ///< for that and images
};

/// `grid`: the operation's part of the communicator's. Throws InvalidArgument for rows that do not fit the
/// workspace.
[[nodiscard]] RowLaunch row_launch_for(const Call& call, const Grid& grid, const LaunchLimits& limits);

}  // namespace mixcomm::cuda
