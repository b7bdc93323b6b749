#include "cuda/launch.hpp"

#include <algorithm>
#include <bit>

namespace mixcomm::cuda {
namespace {

std::size_t divide_up(std::size_t a, std::size_t b) {
  return (a + b - 1) / b;
}

constexpr std::size_t unit_bytes = device::lane_unit_bytes;

/// What a kernel's threads work on at a time.
struct TileShape {
  std::size_t bytes;       ///< of data
  std::size_t wire_bytes;  ///< that carry them
  std::size_t threads;
  std::size_t step;  ///< the granule: blocks are cut at multiples of this many bytes
};

TileShape tile_of(Way way, DType dtype) {
  const std::size_t plain_step = granule * size_of(dtype);
  if (over_packets(way)) return {8, 16, 1, plain_step};
  if (over_barriers(way)) return {16, 16, 1, plain_step};
  const std::size_t width = is_wide(way) ? 2 : 1;
  return {120 * width, 128 * width, 8, 240};
}

/// How the sum of a tile is made.
SumOrder order_of(Body body, const Grid& grid) {
  return body == Body::gather ? grid.over_tp(0) : grid.over_world();
}

/// What one lane covers in one pass needs two areas, for input and for sums: how many elements the larger one
/// must hold.
std::size_t elements_needed(Way way, Body body, const BasicBlocks<most_ranks>& blocks, const Grid& grid) {
  if (over_barriers(way)) return blocks.packed_size();
  const auto sources = static_cast<std::size_t>(order_of(body, grid).size());
  const std::size_t in = sources * extent_of(is_one_shot(way), body, blocks, grid.world.size);
  return is_one_shot(way) ? in : std::max(in, blocks.packed_size());
}

/// The way of a call whose shape is known. Variants for many or for few tiles a thread are chosen later.
Way way_of(const Call& call, const LaunchLimits& limits) {
  Protocol protocol = call.shape.protocol;
  if (protocol == Protocol::lines && !limits.lines) protocol = Protocol::packets;
  if (call.algorithm != Algorithm::two_shot)
    return protocol == Protocol::lines ? Way::one_shot_lines : Way::one_shot_packets;
  if (protocol == Protocol::lines) return Way::two_shot_lines;
  return protocol == Protocol::packets ? Way::two_shot_packets : Way::two_shot_barriers;
}

/// The threads of a lane, unless the call names another number, or all lanes together have fewer threads than
/// there are tiles.
constexpr std::size_t usual_threads = 256;

/// Eight loads under way are one batch of a sum, for which OrderedSum has no place to wait: all sources, in
/// one tree.
bool is_one_batch(const SumOrder& order) {
  return order.size() <= 8 &&
         (order.outer_size == 1 || std::has_single_bit(static_cast<unsigned>(order.inner.size)));
}

/// Two lines at a time where each team has several: measured over NVLink.
Way wide_if_many(Way way, std::size_t threads, std::size_t lanes) {
  const auto most = lanes * static_cast<std::size_t>(most_threads_of(way));
  if (way == Way::one_shot_lines && 2 * threads > 3 * most) return Way::one_shot_lines_wide;
  if (way == Way::two_shot_lines && threads > 2 * most) return Way::two_shot_lines_wide;
  return way;
}

}  // namespace

LaunchLimits limits_for(int lanes, std::size_t workspace_bytes, bool lines) {
  return {std::min(lanes, most_lanes), workspace_bytes / unit_bytes * unit_bytes, lines};
}

std::size_t lane_bytes_of(std::size_t area_bytes, int lanes) {
  return area_bytes / static_cast<std::size_t>(lanes) / unit_bytes * unit_bytes;
}

Launch launch_for(const Call& call, const Grid& grid, bool direct, const LaunchLimits& limits) {
  Launch launch;
  launch.way = way_of(call, limits);
  const bool message = !over_barriers(launch.way);
  const bool staged = message || !direct;

  // Each lane's part of an area holds a step of every block from every rank.
  const TileShape narrow = tile_of(launch.way, call.dtype);
  const std::size_t step_bytes = round_up(narrow.step * narrow.wire_bytes / narrow.bytes, unit_bytes);
  std::size_t most = std::min(static_cast<std::size_t>(limits.most_lanes),
                              limits.area_bytes / (step_bytes * static_cast<std::size_t>(grid.world.size)));
  if (call.shape.lanes > 0) most = std::min(most, static_cast<std::size_t>(call.shape.lanes));
  most = std::max<std::size_t>(most, 1);

  // Threads for every tile that this rank touches in the longest phase, up to the most: where nothing is
  // staged that is its share of the sum, elsewhere the tensor with all rows. Over NVLink 256 or 512 threads a
  // lane are within 2 % of the best everywhere; what lies between is slower.
  const std::size_t elements = call.blocks.elements();
  const std::size_t touched =
      staged ? elements : divide_up(elements, static_cast<std::size_t>(grid.world.size));
  const std::size_t wanted =
      std::max(divide_up(touched * size_of(call.dtype), narrow.bytes), std::size_t{1}) * narrow.threads;
  std::size_t threads = call.shape.threads > 0 ? static_cast<std::size_t>(call.shape.threads) : usual_threads;
  threads = std::min(round_up(threads, 32), static_cast<std::size_t>(most_threads_of(launch.way)));
  const std::size_t lanes = std::min(divide_up(wanted, threads), most);
  const bool crowded = wanted > lanes * threads;
  const SumOrder order = order_of(call.body, grid);
  if (call.body == Body::gather && over_lines(launch.way) && order.size() <= most_wide_sources)
    launch.way = wide_if_many(launch.way, wanted, lanes);
  if (launch.way == Way::two_shot_barriers && !crowded && threads <= 256 && is_one_batch(order))
    launch.way = Way::two_shot_barriers_few;
  if (crowded && call.shape.threads == 0) threads = static_cast<std::size_t>(most_threads_of(launch.way));
  launch.lanes = static_cast<int>(lanes);
  launch.threads = static_cast<int>(threads);
  launch.lane_bytes = lane_bytes_of(limits.area_bytes, launch.lanes);

  // Lanes and passes together are pieces of the data: the first is the largest.
  const TileShape tile = tile_of(launch.way, call.dtype);
  if (over_lines(launch.way) && parks_sums(call.body, Wire::lines, lines_of_batch(launch.way)) &&
      order.size() > 2 * lines_of_batch(launch.way))
    launch.shared_bytes = threads * (tile.wire_bytes / tile.threads / size_of(call.dtype)) * sizeof(float);
  const std::size_t capacity = launch.lane_bytes / tile.wire_bytes * tile.bytes / size_of(call.dtype);
  constexpr std::size_t most_places = std::size_t{1} << 30U;
  BasicBlocks<most_ranks>& blocks = launch.blocks;
  blocks = BasicBlocks<most_ranks>(call.blocks);
  const auto cut = [&] { blocks.cut(launch.lanes * launch.passes, tile.step / size_of(call.dtype)); };
  // A piece has fewer than 2^32 elements to begin with.
  launch.passes = static_cast<int>(elements / (most_places * lanes)) + 1;
  cut();
  const auto needed = [&] {
    return staged ? elements_needed(launch.way, call.body, blocks, grid) : blocks.packed_size();
  };
  const std::size_t room = staged ? std::min(capacity, most_places) : most_places;
  for (launch.passes *= static_cast<int>(needed() / (room + 1)) + 1;; ++launch.passes) {
    cut();
    if (needed() <= room) return launch;
  }
}

}  // namespace mixcomm::cuda
