#include "cuda/row_launch.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "epilogue/arithmetic.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

std::size_t divide_up(std::size_t a, std::size_t b) {
  return (a + b - 1) / b;
}

/// Parts of areas begin at multiples of this.
constexpr std::size_t unit_bytes = 512;
/// Images of rows, and their parts, begin at multiples of this.
constexpr std::size_t image_bytes = 16;

struct WireShape {
  std::size_t bytes;  ///< of data in a tile
  std::size_t wire_bytes;
  std::size_t threads;
};
constexpr WireShape shape_of_wire(Wire wire) {
  return wire == Wire::lines ? WireShape{240, 256, 8} : WireShape{8, 16, 1};
}

/// What the kernels of operations that gather wait for at a time.
constexpr int sources_at_a_time = 4;

RowDeal deal_of(std::size_t tiles, std::size_t teams) {
  const bool several = teams >= tiles;
  return {static_cast<std::uint32_t>(tiles), static_cast<std::uint32_t>(several ? teams / tiles : 1),
          static_cast<std::uint32_t>(several ? tiles : teams)};
}

/// Whether threads can norm what they have summed: their parts of a tile are whole groups of columns, in
/// packs of 16 bytes, and a row's fit the sums of squares and shared memory.
bool can_hold(const Call& call, Wire wire, std::size_t tiles) {
  const Epilogue& epilogue = call.epilogue;
  if (wire != Wire::lines || size_of(call.dtype) != 2 || !epilogue.norms() || epilogue.quantizes() ||
      call.hidden % epilogue::group != 0 || call.shape.threads != 0)
    return false;
  for (const void* data : {call.in, static_cast<const void*>(call.out), epilogue.residual.data,
                           static_cast<const void*>(epilogue.residual_out.data), epilogue.weight.data})
    if (reinterpret_cast<std::uintptr_t>(data) % 16 != 0) return false;
  const std::size_t teams = most_row_threads / shape_of_wire(wire).threads;
  return tiles >= 4 && tiles * groups_of_tile <= most_groups &&
         divide_up(tiles, teams) * most_row_threads * held_bytes <= most_image_bytes;
}

Wire wire_of(const Call& call, const LaunchLimits& limits) {
  return limits.lines && call.shape.protocol != Protocol::packets ? Wire::lines : Wire::packets;
}

/// What a lane needs room for, in a pass that covers so many rows.
class RowSizes {
 public:
  RowSizes(const Call& call, const Grid& grid, Wire wire) : call_(call), grid_(grid) {
    const Epilogue& epilogue = call.epilogue;
    const WireShape shape = shape_of_wire(wire);
    const std::size_t scales = scales_per_row(epilogue.quantize, call.hidden);
    changes_ = epilogue.norms() || epilogue.quantizes();
    one_shot_ = call.algorithm != Algorithm::two_shot;
    tiles_ = divide_up(call.hidden * size_of(call.dtype), shape.bytes);
    row_bytes_ = tiles_ * shape.wire_bytes;
    out_tiles_ = tiles_;
    if (epilogue.quantizes())
      out_tiles_ = divide_up(call.hidden, shape.bytes) + divide_up(scales * sizeof(float), shape.bytes);
    out_row_bytes_ = out_tiles_ * shape.wire_bytes;
    images_.fp8 = static_cast<std::uint32_t>(round_up(call.hidden * size_of(call.dtype), image_bytes));
    images_.scales = images_.fp8;
    if (!one_shot_ && epilogue.quantizes())
      images_.scales += static_cast<std::uint32_t>(round_up(call.hidden, image_bytes));
    images_.bytes = images_.scales;
    if (!one_shot_)
      images_.bytes += static_cast<std::uint32_t>(round_up(scales * sizeof(float), image_bytes));
  }

  [[nodiscard]] std::size_t tiles() const { return tiles_; }
  [[nodiscard]] std::size_t out_tiles() const { return out_tiles_; }
  [[nodiscard]] const RowImages& images() const { return images_; }
  [[nodiscard]] bool needs_images() const { return changes_ || !one_shot_; }

  /// The most rows of a block, or of all, that a lane sums in a pass.
  [[nodiscard]] std::size_t summed(const BasicBlocks<most_ranks>& rows) const {
    if (one_shot_ && call_.body == Body::gather) return rows.packed_size();
    const std::size_t longest = longest_of(rows);
    return one_shot_ ? longest : divide_up(longest, static_cast<std::size_t>(grid_.tp.size));
  }

  /// Whether other DP groups get the residual as one source more.
  [[nodiscard]] bool residual_travels() const {
    return one_shot_ && call_.body == Body::gather && call_.epilogue.adds() && grid_.dp.size > 1;
  }

  /// The bytes of the larger of both areas.
  [[nodiscard]] std::size_t bytes(const BasicBlocks<most_ranks>& rows) const {
    const std::size_t images = needs_images() && images_.bytes > most_image_bytes ? images_.bytes : 0;
    if (grid_.world.size == 1) return images;
    const auto sources =
        static_cast<std::size_t>(call_.body == Body::gather ? grid_.tp.size : grid_.world.size) +
        (residual_travels() ? 1 : 0);
    const std::size_t in = sources * summed(rows) * row_bytes_;
    if (one_shot_) return std::max(in, images);
    const std::size_t handed_out =
        (call_.body == Body::gather ? rows.packed_size() : longest_of(rows)) * out_row_bytes_;
    const std::size_t kept = call_.epilogue.keeps() && changes_ ? longest_of(rows) * row_bytes_ : 0;
    return std::max({in, handed_out + kept, images});
  }

 private:
  [[nodiscard]] static std::size_t longest_of(const BasicBlocks<most_ranks>& rows) {
    std::size_t longest = 0;
    for (int d = 0; d < rows.dp(); ++d)
      longest = std::max(longest, rows.packed_end(d) - rows.start(Coordinates::packed, d));
    return longest;
  }

  const Call& call_;
  const Grid& grid_;
  bool changes_;
  bool one_shot_;
  std::size_t tiles_;
  std::size_t out_tiles_;
  std::size_t row_bytes_;
  std::size_t out_row_bytes_;
  RowImages images_;
};

}  // namespace

RowLaunch row_launch_for(const Call& call, const Grid& grid, const LaunchLimits& limits) {
  RowLaunch launch;
  const Wire wire = wire_of(call, limits);
  const RowSizes sizes(call, grid, wire);
  BasicBlocks<most_ranks>& blocks = launch.blocks;
  blocks.assign(call.blocks.dp(), [&](int d) { return call.blocks.full_size(d) / call.hidden; });
  const std::size_t all_rows = std::max<std::size_t>(blocks.elements(), 1);

  // A lane for each row, as far as there are lanes, and room in each for a row of every block.
  const auto cut = [&](std::size_t pieces) { blocks.cut(static_cast<int>(pieces), 1); };
  cut(all_rows);
  const std::size_t least = std::max(round_up(sizes.bytes(blocks), unit_bytes), unit_bytes);
  if (least > limits.area_bytes)
    throw InvalidArgument(fmt::format(
        "{}: with an epilogue, a row of hidden {} takes {} bytes of the workspace, but workspace_bytes is "
        "{}; "
        "make the communicator with at least that many",
        name(call.record.op), call.hidden, least, limits.area_bytes));
  std::size_t lanes = std::min(static_cast<std::size_t>(limits.most_lanes), limits.area_bytes / least);
  if (call.shape.lanes > 0) lanes = std::min(lanes, static_cast<std::size_t>(call.shape.lanes));
  lanes = std::max<std::size_t>(std::min(lanes, all_rows), 1);
  launch.lanes = static_cast<int>(lanes);
  launch.lane_bytes = limits.area_bytes / lanes / unit_bytes * unit_bytes;

  // Each pass covers as many rows as fit; one of each block does.
  constexpr std::size_t most_tiles = std::size_t{1} << 30U;
  for (;; ++launch.passes) {
    cut(lanes * static_cast<std::size_t>(launch.passes));
    if (sizes.bytes(blocks) <= launch.lane_bytes && blocks.packed_size() * sizes.tiles() <= most_tiles) break;
  }

  // Threads for all tiles of what a pass covers, or of a row where they hold it.
  const bool held = can_hold(call, wire, sizes.tiles());
  launch.kind = held ? RowKind::held : wire == Wire::lines ? RowKind::lines : RowKind::packets;
  const std::size_t rows_each =
      held ? 1 : std::max<std::size_t>(blocks.packed_size() / static_cast<std::size_t>(blocks.dp()), 1);
  std::size_t threads = call.shape.threads > 0 ? static_cast<std::size_t>(call.shape.threads)
                                               : rows_each * sizes.tiles() * shape_of_wire(wire).threads;
  launch.threads = static_cast<int>(std::clamp<std::size_t>(round_up(threads, 32), 32, most_row_threads));

  const std::size_t teams = static_cast<std::size_t>(launch.threads) / shape_of_wire(wire).threads;
  launch.deal = deal_of(sizes.tiles(), teams);
  // The teams of a warp receive in step. So they must not have rows of several blocks at a time, of which
  // some have the residual as one source more, where that takes another batch.
  if (wire == Wire::lines && sizes.residual_travels() && grid.tp.size % sources_at_a_time == 0)
    launch.deal.rows_step = 1;
  launch.out_deal = deal_of(sizes.out_tiles(), teams);
  launch.images = sizes.images();
  const std::size_t rows = std::max<std::size_t>(sizes.summed(blocks), 1);
  launch.rows_at_once = static_cast<std::uint32_t>(rows);
  if (held) {
    launch.rows_at_once = 1;
    launch.shared_bytes =
        divide_up(sizes.tiles(), teams) * static_cast<std::size_t>(launch.threads) * held_bytes;
    return launch;
  }
  if (!sizes.needs_images()) return launch;
  launch.images_in_workspace = launch.images.bytes > most_image_bytes;
  launch.rows_at_once = 1;
  if (launch.images_in_workspace) return launch;
  // The weight is there when the sums come, and each lane reads it once, if both fit.
  const std::size_t weight = round_up(call.hidden * size_of(call.dtype), image_bytes);
  if (call.epilogue.norms() && weight + launch.images.bytes <= most_image_bytes) launch.weight_bytes = weight;
  const std::size_t at_once = std::min(rows, (most_image_bytes - launch.weight_bytes) / launch.images.bytes);
  launch.rows_at_once = static_cast<std::uint32_t>(at_once);
  launch.shared_bytes = launch.weight_bytes + at_once * launch.images.bytes;
  return launch;
}

}  // namespace mixcomm::cuda
