// two_shot: each rank sums one share of all rows and writes it to everyone who needs it. For large messages:
// nothing is summed twice. Where blocks are even and their size divides, rank (t, d) sums part t of block d.
#pragma once

#include "algorithms/context.hpp"

namespace mixcomm {

/// What a rank sums: its share.
template <int most>
[[nodiscard]] MIXCOMM_HD Range two_shot_sums(const Grid& g, const BasicBlocks<most>& b) {
  return b.share(g.world.member, g.world.size);
}

/// What member `member` of the world sums where there is an epilogue: whole rows (of which the cut is made)
/// of its own DP group's block, since the residual of a row is on the ranks of that group alone.
template <int most>
[[nodiscard]] MIXCOMM_HD Range two_shot_rows(const Grid& g, const BasicBlocks<most>& b, int member) {
  return b.share_of_block(member / g.tp.size, member % g.tp.size, g.tp.size);
}

/// The same for the pass of a context.
template <class C, int most>
[[nodiscard]] MIXCOMM_HD Range two_shot_sums(const C& c, const Grid& g, const BasicBlocks<most>& b) {
  if constexpr (RowContext<C>)
    if (c.has_epilogue()) return two_shot_rows(g, b, g.world.member);
  return two_shot_sums(g, b);
}

/// out block d = sum over t of in@(t, d), for every d  ==  reduce-scatter(tp), then all-gather(world).
/// Phases: wait | sum my share of all blocks and write it to every rank | wait. Waits: 2.
/// Reads per rank: tp x sum(rows) x hidden / world; writes: sum(rows) x hidden; scratch: none for symmetric
/// buffers.
template <TwoShotContext C, int most>
MIXCOMM_HD void all_reduce_all_gather_two_shot(C& c, const Grid& g, const BasicBlocks<most>& b) {
  const auto in = c.share();
  const auto out = c.open();
  c.barrier();
  for (const auto tile : c.tiles(two_shot_sums(c, g, b)))
    c.store_all(g.world, out, tile, c.load_sum(g.over_tp(tile.block), in, tile));
  c.barrier();
  c.close(out);
}

/// out = sum over d', then t, of block d of in@(t, d')  ==  reduce-scatter(world), then all-gather(tp).
/// Phases: wait | sum my share of all blocks over all ranks and write it to the TP team of that block | wait.
/// Waits: 2. Reads per rank: sum(rows) x hidden; writes: tp x sum(rows) x hidden / world; scratch: none for
/// symmetric buffers.
template <TwoShotContext C, int most>
MIXCOMM_HD void reduce_scatter_all_reduce_two_shot(C& c, const Grid& g, const BasicBlocks<most>& b) {
  const auto in = c.share();
  const auto out = c.open();
  c.barrier();
  for (const auto tile : c.tiles(two_shot_sums(c, g, b)))
    c.store_all(g.over_tp(tile.block).inner, out, tile, c.load_sum(g.over_world(), in, tile));
  c.barrier();
  c.close(out);
}

}  // namespace mixcomm
