// What a kernel is given of a communicator: plain data, which is passed by value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mixcomm/device/workspace.hpp"
#include "mixcomm/grid.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {
namespace device {

/// What one lane counts. In the rank's own device memory, so that a replayed graph goes on counting.
struct alignas(16) LaneState {
  std::uint64_t packets;   ///< the number of the last pass that sent packets or lines
  std::uint32_t barriers;  ///< how many barriers this lane has passed
  std::uint32_t failed;    ///< the communicator is: kernels leave at once
};

/// The first failure that this rank's kernels found: in host memory that the device writes.
struct FailureRecord {
  enum Kind : std::uint32_t { none, timeout, disagreement, row_counts };
  std::uint32_t complete;  ///< 1 once the rest is there
  std::uint32_t kind;
  std::uint32_t op;    ///< an Op, or own_kernel
  std::uint32_t team;  ///< a TeamKind
  std::uint32_t lane;
  std::uint64_t number;   ///< of the call
  std::uint64_t step;     ///< how many waits its lane had done
  std::uint64_t missing;  ///< timeout: bit m: member m of the operation's team; disagreement: that member
};

/// What all kernels of a rank share, in its own device memory.
struct RankMemory {
  LaneState lanes[team_kinds][most_lanes];  ///< of the library's operations
  std::uint32_t failure_claimed;            ///< the first to find a failure describes it
};

/// In place of an Op: a kernel that is not the library's.
inline constexpr std::uint8_t own_kernel = 0xFF;

/// One rank's end of some lanes, for one launch of a kernel: DeviceLanes::handle() makes it, and the kernel
/// takes it by value, as a `const __grid_constant__ Handle`. The grid is for the kernel to look at; the rest
/// is what Lane, Messages and Barriers work on.
struct Handle {
  Grid grid;  ///< of the lanes' team: `world` holds the ranks that launch the kernel together
  Workspace workspace;
  LaneState* lanes = nullptr;  ///< `most_lanes` of them
  RankMemory* memory = nullptr;
  FailureRecord* failure = nullptr;
  std::uint64_t number = 0;   ///< of the call, for errors: of a kernel of one's own, any number one likes
  std::uint32_t timeout = 0;  ///< in units of 2^20 ns
  std::uint8_t op = own_kernel;
  std::uint8_t team = 0;  ///< a TeamKind
};

}  // namespace device
}  // namespace mixcomm
