// What a kernel is given, and what it keeps between calls: plain data, shared by host and device code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "algorithms/blocks.hpp"
#include "cuda/workspace.hpp"
#include "mixcomm/communicator.hpp"
#include "mixcomm/grid.hpp"
#include "mutant.hpp"

namespace mixcomm::cuda {

/// What one lane counts. In the rank's own device memory, so that a replayed graph goes on counting.
struct alignas(16) LaneState {
  std::uint64_t packets;   ///< the number of the last pass that sent packets
  std::uint32_t barriers;  ///< how many barriers this lane has passed
  std::uint32_t failed;    ///< the communicator is: kernels leave at once
};

/// A call's record, as ranks compare it.
struct RecordWords {
  std::uint64_t word[record_words];
};

/// The first failure that this rank's kernels found: in host memory that the device writes.
struct FailureRecord {
  enum Kind : std::uint32_t { none, timeout, disagreement, row_counts };
  std::uint32_t complete;  ///< 1 once the rest is there
  std::uint32_t kind;
  std::uint32_t op;
  std::uint32_t lane;
  std::uint64_t number;   ///< of the call
  std::uint64_t step;     ///< how many waits its lane had done
  std::uint64_t missing;  ///< timeout: bit m: member m of the operation's team; disagreement: that member
  std::uint64_t mine[record_words];  ///< disagreement: both calls' records, word by word
  std::uint64_t theirs[record_words];
};

/// What a rank's kernels keep in its own device memory.
struct RankMemory {
  LaneState lanes[team_kinds][most_lanes];
  std::uint64_t agreements[team_kinds];  ///< how many calls have been compared
  std::uint32_t failure_claimed;         ///< the first to find a failure describes it
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

/// One operation of one rank.
struct Arguments {
  Grid grid;  ///< the operation's part of the communicator's
  Workspace workspace;
  const void* in = nullptr;
  void* out = nullptr;
  View in_view;   ///< of a symmetric `in` that is used in place; first is null for others
  View out_view;  ///< ... `out`
  RankMemory* memory = nullptr;
  FailureRecord* failure = nullptr;
  std::uint64_t hidden = 0;
  std::uint64_t most_rows = 0;                ///< device_rows: of the tensor with all rows
  const std::int64_t* device_rows = nullptr;  ///< null: the host knows the counts
  std::int64_t most_rows_each = 0;            ///< ... the most that any count may be
  BasicBlocks<most_ranks> blocks;             ///< cut into lanes x passes pieces; unused with device_rows
  std::uint64_t number = 0;                   ///< of the call, for errors
  std::uint32_t timeout = 0;                  ///< in units of 2^20 ns
  std::uint32_t passes = 1;
  std::uint8_t op = 0;
  std::uint8_t team = 0;  ///< TeamKind
  MutantSwitch mutant{};
};

}  // namespace mixcomm::cuda
