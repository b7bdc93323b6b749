// one_shot: every rank publishes its input once, waits once, and sums all that it needs by itself. For small
// messages.
#pragma once

#include "algorithms/context.hpp"

namespace mixcomm {

/// out block d = sum over t of in@(t, d), for every d.
/// Phases: publish | wait | sum. Waits: 1. Reads per rank: world x rows x hidden; scratch: its input, twice.
template <Context C>
MIXCOMM_HD void all_reduce_all_gather_one_shot(C& c, const Grid& g, const Blocks& b) {
  const auto in = c.publish();
  for (int d = 0; d < g.dp.size; ++d)
    for (auto tile : c.tiles(Range{0, b.size(d)})) c.store(d, tile, c.load_sum(g.over_tp(d), in, d, tile));
}

/// out = sum over d', then t, of block d of in@(t, d').
/// Phases: publish | wait | sum. Waits: 1. Reads per rank: world x rows[d] x hidden; scratch: its input,
/// twice.
template <Context C>
MIXCOMM_HD void reduce_scatter_all_reduce_one_shot(C& c, const Grid& g, const Blocks& b) {
  const int d = g.dp.member;
  const auto in = c.publish();
  for (auto tile : c.tiles(Range{0, b.size(d)})) c.store(d, tile, c.load_sum(g.over_world(), in, d, tile));
}

}  // namespace mixcomm
