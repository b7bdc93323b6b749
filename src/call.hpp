// One call of an operation, as a backend runs it, and what makes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "algorithms/blocks.hpp"
#include "call_record.hpp"
#include "mixcomm/communicator.hpp"

namespace mixcomm {

class Backend;

/// Arguments that keep the rules of their operation.
struct CheckedCall {
  ConstTensor in;
  Tensor out;
  RowCounts rows;
  Epilogue epilogue{};

  /// Whether the buffer with one block is the calling rank's block of the buffer with all blocks; `team`: the
  /// operation's part of the grid.
  [[nodiscard]] bool in_place(Body body, const Grid& team) const;
};

/// A part of an ordered sum that is not rounded: in fp32, or, if it is of one source, in that one's dtype.
struct Subtotal {
  SumOrder order;
  DType dtype = DType::fp32;
  void* out = nullptr;  ///< of the rank's block
};

/// One checked call. It is ready to run once it has been given an algorithm.
struct Call {
  Body body = Body::gather;
  TeamKind team = TeamKind::world;
  bool by_rank = false;  ///< each rank of the team has a block of its own, as if it were a DP rank
  Algorithm algorithm = Algorithm::automatic;
  DType dtype = DType::fp32;
  const void* in = nullptr;
  void* out = nullptr;
  Placement in_placement;
  Placement out_placement;
  bool reads_in_place = false;  ///< CPU, one_shot: peers read my input where it is, not a copy of it
  Blocks blocks;                ///< with counts in device memory: of the largest counts there may be
  const std::int64_t* device_rows =
      nullptr;  ///< CUDA: the counts themselves, of the operation's first block on
  std::size_t hidden = 0;
  std::size_t most_rows = 0;  ///< of the tensor with all rows; looked at with counts in device memory only
  void* stream = nullptr;
  Epilogue epilogue;  ///< with one, `out` holds fp8_e4m3 where that quantizes, else `dtype` as ever
  LaunchShape shape;  ///< CUDA: what is known better than launching knows
  std::span<const Subtotal> subtotals{};  ///< CPU, scatter by one_shot: they are wanted in place of the sum
  CallRecord record;

  /// Gives it an algorithm that has a body (not automatic, not composed), and what follows from it.
  void set_algorithm(Algorithm chosen, const Backend& backend);

  /// The place of the buffer with all blocks.
  [[nodiscard]] const Placement& all_blocks() const {
    return body == Body::gather ? out_placement : in_placement;
  }
  /// The place of the buffer with one block.
  [[nodiscard]] const Placement& one_block() const {
    return body == Body::gather ? in_placement : out_placement;
  }

  /// CPU: whether in one_shot ranks need the residuals of other DP groups' rows.
  [[nodiscard]] bool shares_residuals() const {
    return algorithm == Algorithm::one_shot && body == Body::gather && blocks.dp() > 1 && epilogue.adds();
  }

  /// The part of a communicator's grid that it runs on.
  [[nodiscard]] Grid part_of(const Grid& grid) const {
    return by_rank ? grid_of(grid, team).flat() : grid_of(grid, team);
  }

  /// A buffer as peers find it.
  struct Seen {
    const void* data;
    Placement placement;
    bool all_blocks;  ///< it holds all blocks
  };
  /// Where peers find my input and my output. One that is this rank's block of the other buffer is another
  /// block for each DP rank: they find it there.
  [[nodiscard]] Seen seen_input() const {
    if (in_placement.kind == Placement::Kind::in_place) return {out, out_placement, true};
    return {in, in_placement, body == Body::scatter};
  }
  [[nodiscard]] Seen seen_output() const {
    if (out_placement.kind == Placement::Kind::in_place) return {in, in_placement, true};
    return {out, out_placement, body == Body::gather};
  }
};

/// What the backend runs, but for the algorithm and the record's number. Here the places of the buffers are
/// looked up, and nowhere else.
[[nodiscard]] Call make_call(Op op, const CheckedCall& checked, const Grid& grid, const Backend& backend,
                             void* stream);

}  // namespace mixcomm
