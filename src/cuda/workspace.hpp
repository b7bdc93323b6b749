// What the library's own operations have in a workspace, beside what every lane has
// (mixcomm/device/workspace.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "algorithms/blocks.hpp"
#include "call_record.hpp"
#include "mixcomm/device/workspace.hpp"

namespace mixcomm::cuda {

using device::Area;
using device::most_lanes;
using device::most_ranks;
using device::Wire;
using device::Workspace;

/// A call's record, as ranks compare it.
inline constexpr int record_words = sizeof(CallRecord) / sizeof(std::uint64_t);

/// Behind a team kind's workspace: where ranks compare calls.
inline constexpr std::size_t records_bytes = round_up(std::size_t{2} * most_ranks * record_words * 16, 4096);
/// Where `from` puts word w of a call's record for the owner of a slice.
[[nodiscard]] MIXCOMM_HD inline std::size_t record_slot(const Workspace& workspace, int parity, int from,
                                                        int w) {
  const int slot = (parity * most_ranks + from) * record_words + w;
  return workspace.bytes() + static_cast<std::size_t>(slot) * 16;
}

/// How many elements of an area each source has, in the workspace of the rank that sums: the data of source s
/// begin at s times this number.
template <int most>
[[nodiscard]] MIXCOMM_HD std::size_t extent_of(bool one_shot, Body body, const BasicBlocks<most>& blocks,
                                               int ranks) {
  if (!one_shot) return blocks.share(0, ranks).size;
  if (body == Body::gather) return blocks.packed_size();
  std::size_t longest = 0;
  MIXCOMM_ROLLED
  for (int d = 0; d < blocks.dp(); ++d) {
    const std::size_t room = blocks.packed_end(d) - blocks.start(Coordinates::packed, d);
    longest = room > longest ? room : longest;
  }
  return longest;
}

}  // namespace mixcomm::cuda
