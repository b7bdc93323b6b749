// two_shot: each rank sums one part and writes it to everyone who needs it. For large messages: nothing is
// summed twice.
#pragma once

#include "algorithms/context.hpp"

namespace mixcomm {

/// out block d = sum over t of in@(t, d), for every d  ==  reduce-scatter(tp), then all-gather(world).
/// Phases: wait | rank (t, d) sums part t of block d and writes it to every rank | wait. Waits: 2.
/// Reads per rank: rows[d] x hidden; writes: world x rows[d] x hidden / tp; scratch: none for symmetric
/// buffers.
template <Context C>
MIXCOMM_HD void all_reduce_all_gather_two_shot(C& c, const Grid& g, const Blocks& b) {
  const int d = g.dp.member;
  const auto in = c.share();
  const auto out = c.open();
  c.barrier();
  for (auto tile : c.tiles(part(b.size(d), g.tp)))
    c.store_all(g.world, out, d, tile, c.load_sum(g.over_tp(d), in, d, tile));
  c.barrier();
  c.close(out);
}

/// out = sum over d', then t, of block d of in@(t, d')  ==  reduce-scatter(world), then all-gather(tp).
/// Phases: wait | rank (t, d) sums part t of block d over all ranks and writes it to its TP team | wait.
/// Waits: 2. Reads per rank: world x rows[d] x hidden / tp; writes: rows[d] x hidden; scratch: none for
/// symmetric buffers.
template <Context C>
MIXCOMM_HD void reduce_scatter_all_reduce_two_shot(C& c, const Grid& g, const Blocks& b) {
  const int d = g.dp.member;
  const auto in = c.share();
  const auto out = c.open();
  c.barrier();
  for (auto tile : c.tiles(part(b.size(d), g.tp)))
    c.store_all(g.tp, out, d, tile, c.load_sum(g.over_world(), in, d, tile));
  c.barrier();
  c.close(out);
}

}  // namespace mixcomm
