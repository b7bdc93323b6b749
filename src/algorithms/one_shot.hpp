// one_shot: every rank publishes its input once, waits once, and sums all that it needs by itself. For small
// messages.
#pragma once

#include "algorithms/context.hpp"
#include "mixcomm/operation.hpp"

namespace mixcomm {

/// What a rank sums: all that it needs.
template <Body body, int most>
[[nodiscard]] MIXCOMM_HD Range one_shot_sums(const Grid& g, const BasicBlocks<most>& b) {
  return body == Body::gather ? b.everything() : b.block(g.dp.member);
}

/// out block d = sum over t of in@(t, d), for every d.
/// Phases: publish | wait | sum (| wait, where the input itself was published). Waits: 1 (2). Reads per rank:
/// tp x sum(rows) x hidden; scratch: its input, twice (none).
template <OneShotContext C, int most>
MIXCOMM_HD void all_reduce_all_gather_one_shot(C& c, const Grid& g, const BasicBlocks<most>& b) {
  const auto in = c.publish();
  for (const auto tile : c.tiles(one_shot_sums<Body::gather>(g, b)))
    c.store(tile, c.load_sum(g.over_tp(tile.block), in, tile));
  c.retract(in);
}

/// out = sum over d', then t, of block d of in@(t, d').
/// Phases: publish | wait | sum (| wait, where the input itself was published). Waits: 1 (2). Reads per rank:
/// world x rows[d] x hidden; scratch: its input, twice (none).
template <OneShotContext C, int most>
MIXCOMM_HD void reduce_scatter_all_reduce_one_shot(C& c, const Grid& g, const BasicBlocks<most>& b) {
  const auto in = c.publish();
  for (const auto tile : c.tiles(one_shot_sums<Body::scatter>(g, b)))
    c.store(tile, c.load_sum(g.over_world(), in, tile));
  c.retract(in);
}

}  // namespace mixcomm
