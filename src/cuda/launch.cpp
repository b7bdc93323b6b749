#include "cuda/launch.hpp"

#include <algorithm>

namespace mixcomm::cuda {
namespace {

std::size_t divide_up(std::size_t a, std::size_t b) {
  return (a + b - 1) / b;
}

/// Elements that the larger of both areas must hold for what one lane covers in one pass.
std::size_t elements_needed(Way way, bool gathers, const BasicBlocks<most_ranks>& blocks, const Grid& grid) {
  const auto world = static_cast<std::size_t>(grid.world.size);
  const auto tp = static_cast<std::size_t>(grid.tp.size);
  if (!in_packets(way)) return blocks.packed_size();
  if (way == Way::two_shot_packets) {
    const std::size_t share = part(blocks.packed_size(), 0, grid.world.size).size;
    return std::max(blocks.packed_size(), (gathers ? tp : world) * share);
  }
  if (gathers) return tp * blocks.packed_size();
  std::size_t longest = 0;
  for (int d = 0; d < grid.dp.size; ++d)
    longest = std::max(longest, blocks.packed_end(d) - blocks.block(d).begin);
  return world * longest;
}

/// Whether two_shot moves this call's data in packets. In place, barriers move half the bytes and copy
/// nothing; elsewhere packets save a copy.
bool short_for_packets(const Call& call, bool direct) {
  const std::size_t bytes = call.blocks.elements() * size_of(call.dtype);
  const unsigned direct_kib = call.gathers && call.blocks.dp() > 1 ? 128 : 64;
  return bytes <= std::size_t{direct ? direct_kib : 256U} << 10U;
}

}  // namespace

LaunchLimits limits_for(Protocol protocol, int lanes, std::size_t workspace_bytes, int world) {
  constexpr std::size_t granule_bytes = granule * sizeof(float) * 2;
  static_assert((std::size_t{64} << 10U) / most_ranks >= granule_bytes, "the smallest workspace has a lane");
  const std::size_t most = workspace_bytes / (granule_bytes * static_cast<std::size_t>(world));
  const std::size_t count = std::min(static_cast<std::size_t>(lanes), most);
  return {protocol, static_cast<int>(count), workspace_bytes / count / granule_bytes * granule_bytes};
}

Launch launch_for(const Call& call, const Grid& grid, bool direct, const LaunchLimits& limits) {
  Launch launch;
  if (call.algorithm == Algorithm::two_shot) {
    const bool packets = limits.protocol == Protocol::automatic ? short_for_packets(call, direct)
                                                                : limits.protocol == Protocol::packets;
    launch.way = packets ? Way::two_shot_packets : Way::two_shot_barriers;
  }
  const bool packets = in_packets(launch.way);
  const std::size_t tile = (packets ? 8 : 16) / size_of(call.dtype);

  // A thread for every tile that this rank touches in the longest phase, up to the most: where nothing is
  // staged that is its share of the sum, elsewhere the tensor with all rows.
  const std::size_t elements = call.blocks.elements();
  const std::size_t touched =
      packets || !direct ? elements : divide_up(elements, static_cast<std::size_t>(grid.world.size));
  const std::size_t tiles = std::max(divide_up(touched, tile), std::size_t{1});
  std::size_t threads = 256;
  const std::size_t lanes = std::min(divide_up(tiles, threads), static_cast<std::size_t>(limits.most_lanes));
  if (tiles > lanes * threads)
    threads = static_cast<std::size_t>(most_threads_of(launch.way));
  else if (launch.way == Way::two_shot_barriers)
    launch.way = Way::two_shot_barriers_few;
  launch.lanes = static_cast<int>(lanes);
  launch.threads = static_cast<int>(threads);

  // Lanes and passes together are pieces of the data: the first is the largest.
  const std::size_t capacity = limits.lane_bytes / (packets ? 2 : 1) / size_of(call.dtype);
  constexpr std::size_t most_places = std::size_t{1} << 30U;
  BasicBlocks<most_ranks>& blocks = launch.blocks;
  blocks = BasicBlocks<most_ranks>(call.blocks);
  // A piece has fewer than 2^32 elements to begin with.
  launch.passes = static_cast<int>(elements / (most_places * lanes)) + 1;
  blocks.cut(launch.lanes * launch.passes);
  const bool staged = packets || !direct;
  const auto needed = [&] {
    return staged ? elements_needed(launch.way, call.gathers, blocks, grid) : blocks.packed_size();
  };
  const std::size_t room = staged ? std::min(capacity, most_places) : most_places;
  for (launch.passes *= static_cast<int>(needed() / (room + 1)) + 1;; ++launch.passes) {
    blocks.cut(launch.lanes * launch.passes);
    if (needed() <= room) return launch;
  }
}

}  // namespace mixcomm::cuda
