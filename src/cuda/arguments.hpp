// What a kernel is given, and what it keeps between calls: plain data, shared by host and device code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "algorithms/blocks.hpp"
#include "cuda/workspace.hpp"
#include "mixcomm/communicator.hpp"
#include "mixcomm/device/handle.hpp"
#include "mixcomm/grid.hpp"
#include "mutant.hpp"

namespace mixcomm::cuda {

using device::FailureRecord;
using device::LaneState;

/// A call's record, as ranks compare it.
struct RecordWords {
  std::uint64_t word[record_words];
};

/// What the library's own kernels may report beside: in host memory that the device writes.
struct CallFailure : FailureRecord {
  std::uint64_t mine[record_words];  ///< disagreement: both calls' records, word by word
  std::uint64_t theirs[record_words];
};

/// What a rank's kernels keep in its own device memory.
struct RankMemory : device::RankMemory {
  std::uint64_t agreements[team_kinds];  ///< how many calls have been compared
};

/// A buffer of which every rank has one, at the same place of its slice of symmetric memory.
struct View {
  std::byte* first = nullptr;      ///< rank 0's
  std::size_t stride = 0;          ///< from one rank's to the next one's
  std::byte* multicast = nullptr;  ///< a store here goes to all ranks
  Coordinates coordinates = Coordinates::packed;

  [[nodiscard]] MIXCOMM_HD std::byte* of(int rank) const {
    return first + static_cast<std::size_t>(rank) * stride;
  }
};

/// One operation of one rank: the handle of a lane, as kernels of others have it, with the operation's part
/// of the communicator's grid; and what is to be done.
struct Arguments : device::Handle {
  const void* in = nullptr;
  void* out = nullptr;
  View in_view;   ///< of a symmetric `in` that is used in place; first is null for others
  View out_view;  ///< ... `out`
  std::uint64_t hidden = 0;
  std::uint64_t most_rows = 0;                ///< device_rows: of the tensor with all rows
  const std::int64_t* device_rows = nullptr;  ///< null: the host knows the counts
  std::int64_t most_rows_each = 0;            ///< ... the most that any count may be
  BasicBlocks<most_ranks> blocks;             ///< cut into lanes x passes pieces; unused with device_rows
  std::uint32_t passes = 1;
  MutantSwitch mutant{};
};

}  // namespace mixcomm::cuda
