#include "check_lanes.hpp"

#include <fmt/format.h>

#include "algorithms/blocks.hpp"
#include "mixcomm/device/workspace.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {

void check_lanes(const DeviceLanesOptions& options, int most, int members) {
  if (options.lanes < 1 || options.lanes > most)
    throw InvalidArgument(
        fmt::format("device_lanes: lanes is {}; there is room for 1 to {}, or give 0 for all of them",
                    options.lanes, most));
  const auto lanes = static_cast<std::size_t>(options.lanes);
  const std::size_t tiles = static_cast<std::size_t>(members) * device::most_tile_bytes;
  const std::size_t least = round_up(tiles, device::lane_unit_bytes);
  if (options.bytes / lanes < least)
    throw InvalidArgument(fmt::format(
        "device_lanes: bytes is {}, of which each of {} lanes has {}, but a tile from each of {} ranks takes "
        "{}; give {} bytes or more, or fewer lanes",
        options.bytes, lanes, options.bytes / lanes, members, least, least * lanes));
}

}  // namespace mixcomm
