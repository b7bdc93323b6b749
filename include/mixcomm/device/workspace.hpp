// What a rank's slice of a workspace holds, and where: for the host, which makes it, and for kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {
namespace device {

/// The most ranks of one communicator on CUDA.
inline constexpr int most_ranks = 16;

/// A thread block and its peers of the same index on all ranks are a lane: it has its own piece of the data,
/// its own part of each area and its own counters, and waits for nothing but its peers. An operation of few
/// bytes uses few lanes.
inline constexpr int most_lanes = 128;
/// A lane's parts of areas begin at multiples of this.
inline constexpr std::size_t lane_unit_bytes = 512;
/// What a tile of any wire takes at the most.
inline constexpr std::size_t most_tile_bytes = 256;

/// How data travels that says itself that it has come. Each has areas of its own: what a line holds where a
/// packet has its number may be anything.
enum class Wire : std::uint8_t { packets, lines };

/// The areas of a workspace. Those of a wire exist twice, and alternate by the number of the pass.
struct Area {
  int index;
  static constexpr int count = 10;
  /// What ranks have sent me, to sum it.
  [[nodiscard]] MIXCOMM_HD static constexpr Area in(Wire wire, int parity) {
    return {(wire == Wire::lines ? 4 : 0) + parity};
  }
  /// Sums that ranks have sent me.
  [[nodiscard]] MIXCOMM_HD static constexpr Area out(Wire wire, int parity) {
    return {(wire == Wire::lines ? 4 : 0) + 2 + parity};
  }
  /// Between barriers: my input, where others read it; and sums of mine, where others fetch them.
  [[nodiscard]] MIXCOMM_HD static constexpr Area staged_in() { return {8}; }
  [[nodiscard]] MIXCOMM_HD static constexpr Area staged_out() { return {9}; }
};

/// Where things are in a rank's slice of the workspace, in bytes; the same for all ranks. Each team kind has
/// its own. An operation shares each area out among its lanes: that is safe, because an operation begins when
/// the one before it is complete on this rank, and so has heard of every other rank in each of its lanes.
struct Workspace {
  std::byte* first = nullptr;  ///< rank 0's slice
  std::size_t stride = 0;      ///< from one rank's slice to the next one's
  std::size_t area_bytes = 0;
  std::size_t lane_bytes = 0;  ///< of one lane in one area, in this operation

  // Signals come first, then the areas.
  static constexpr std::size_t flags_bytes = std::size_t{most_lanes} * most_ranks * 4;
  static constexpr std::size_t hello_bytes = std::size_t{2} * most_lanes * most_ranks * 16;
  static constexpr std::size_t signal_bytes = (flags_bytes + hello_bytes + 4095) / 4096 * 4096;

  [[nodiscard]] MIXCOMM_HD std::byte* of(int rank) const {
    return first + static_cast<std::size_t>(rank) * stride;
  }
  /// The size of a slice.
  [[nodiscard]] MIXCOMM_HD std::size_t bytes() const { return signal_bytes + Area::count * area_bytes; }
  [[nodiscard]] MIXCOMM_HD std::size_t area(Area area, int lane) const {
    return signal_bytes + static_cast<std::size_t>(area.index) * area_bytes +
           static_cast<std::size_t>(lane) * lane_bytes;
  }
  /// The barrier flag that `from` raises for the owner of this slice.
  [[nodiscard]] MIXCOMM_HD static std::size_t flag(int lane, int from) {
    return (static_cast<std::size_t>(lane) * most_ranks + static_cast<std::size_t>(from)) * 4;
  }
  /// Where `from` greets the owner of this slice.
  [[nodiscard]] MIXCOMM_HD static std::size_t hello(int parity, int lane, int from) {
    const int slot = (parity * most_lanes + lane) * most_ranks + from;
    return flags_bytes + static_cast<std::size_t>(slot) * 16;
  }
};

}  // namespace device
}  // namespace mixcomm
