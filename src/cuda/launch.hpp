// How many lanes, threads and passes an operation takes: pure host code, the same on all ranks.
#pragma once

#include <cstddef>

#include "backend.hpp"
#include "cuda/arguments.hpp"
#include "cuda/kernels.hpp"

namespace mixcomm::cuda {

struct Launch {
  Way way = Way::one_shot_packets;
  int lanes = 1;
  int threads = 1;
  int passes = 1;
  std::size_t shared_bytes = 0;    ///< shared memory of one lane, beside what its kernel declares
  std::size_t lane_bytes = 0;      ///< of one lane in one area of the workspace
  BasicBlocks<most_ranks> blocks;  ///< cut into lanes x passes pieces
};

/// What a launch depends on beside the call: all of it shared by the ranks.
struct LaunchLimits {
  int most_lanes = 1;          ///< that the devices have room for
  std::size_t area_bytes = 0;  ///< of the workspace
  bool lines = false;          ///< whether data may travel in them
};

/// Room for each of `workspace_bytes`, in whole units that lanes share.
[[nodiscard]] LaunchLimits limits_for(int lanes, std::size_t workspace_bytes, bool lines);

/// What each of `lanes` has of an area.
[[nodiscard]] std::size_t lane_bytes_of(std::size_t area_bytes, int lanes);

/// `grid`: the operation's part of the communicator's. `direct`: both buffers are used in place.
[[nodiscard]] Launch launch_for(const Call& call, const Grid& grid, bool direct, const LaunchLimits& limits);

}  // namespace mixcomm::cuda
