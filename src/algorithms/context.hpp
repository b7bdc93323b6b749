// What an algorithm needs of a backend. A context is one rank's end of one pass of one operation.
#pragma once

#include <concepts>
#include <cstddef>

#include "algorithms/blocks.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm {

/// Verbs, each called by every rank of the grid in the same order. Elements are addressed by tiles, a few
/// elements of one block each; where they lie (user buffer, symmetric or not, workspace), and how long is
/// waited for them, is the context's affair.
///
/// - share(): my input, where those who sum it can read it after the next barrier(); rank m sums the
///   elements b.share(m, ranks).
/// - publish(): my input for all who need it, ready when it returns.
/// - retract(in): after my last sum; when it returns, my input may be overwritten. No barrier() is needed
///   between it and the next pass.
/// - open(), close(out): my output, where those sums go that belong to it, between two barriers; close(),
///   after the last one, completes it.
/// - barrier(): every rank of the grid has come here, and what the others wrote before can be read.
/// - tiles(run): a packed run cut into the tiles that load_sum and store take; tile.block is a tile's block.
/// - load_sum(order, in, tile): the ordered sum of a tile over the ranks of `order`, in fp32.
/// - store(tile, sum): the sum, rounded once, to my output.
/// - store_all(team, out, tile, sum): the same to the output of every member of `team`.
template <class C>
concept Context = requires(C c, const Team& team, const SumOrder& order, Range run, typename C::Tile tile,
                           typename C::Input in, typename C::Output out) {
  { c.share() } -> std::same_as<typename C::Input>;
  { c.publish() } -> std::same_as<typename C::Input>;
  c.retract(in);
  { c.open() } -> std::same_as<typename C::Output>;
  c.close(out);
  c.barrier();
  c.tiles(run);
  { tile.block } -> std::convertible_to<int>;
  c.store(tile, c.load_sum(order, in, tile));
  c.store_all(team, out, tile, c.load_sum(order, in, tile));
};

}  // namespace mixcomm
