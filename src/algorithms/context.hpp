// What an algorithm needs of a backend. A context is one rank's end of one pass of one operation.
#pragma once

#include <concepts>
#include <cstddef>

#include "algorithms/blocks.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm {

/// What all algorithms need. Verbs are called by every rank of the grid in the same order. Elements are
/// addressed by tiles, a few elements of one block each; where they lie (user buffer, symmetric or not,
/// workspace), and how long is waited for them, is the context's affair.
///
/// - tiles(run): a packed run cut into the tiles that load_sum takes; tile.block is a tile's block.
/// - load_sum(order, in, tile): the ordered sum of a tile over the ranks of `order`, in fp32.
template <class C>
concept SummingContext = requires(C c, const SumOrder& order, Range run, typename C::Tile tile,
                                  typename C::Input in) {
  c.tiles(run);
  { tile.block } -> std::convertible_to<int>;
  c.load_sum(order, in, tile);
};

/// A context whose calls may have an epilogue: what sum() and store() take then are whole rows, of which the
/// blocks were cut.
///
/// - has_epilogue(): whether this call has one.
template <class C>
concept RowContext = requires(const C& c) {
  { c.has_epilogue() } -> std::same_as<bool>;
};

/// What one_shot needs.
///
/// - publish(): my input for all who need it, ready when it returns.
/// - store(tile, sum): the sum, rounded once, to my output.
/// - retract(in): after my last sum; when it returns, my input may be overwritten. It waits for the others
///   where they may still be reading it,
///   so no wait is needed between it and the next pass.
template <class C>
concept OneShotContext = SummingContext<C> &&
    requires(C c, const SumOrder& order, typename C::Tile tile, typename C::Input in) {
  { c.publish() } -> std::same_as<typename C::Input>;
  c.store(tile, c.load_sum(order, in, tile));
  c.retract(in);
};

/// What two_shot needs.
///
/// - share(): my input, where those who sum it can read it after the next barrier(); rank m sums the elements
///   b.share(m, ranks).
/// - open(), close(out): my output, where those sums go that belong to it.
///   They are sent between two barriers.
///   close(), after the last barrier, completes it.
/// - barrier(): every rank of the grid has come here, and what the others wrote before can be read.
/// - store_all(team, out, tile, sum): the sum, rounded once, to the output of every member of `team`.
template <class C>
concept TwoShotContext = SummingContext<C> &&
    requires(C c, const Team& team, const SumOrder& order, typename C::Tile tile, typename C::Input in,
             typename C::Output out) {
  { c.share() } -> std::same_as<typename C::Input>;
  { c.open() } -> std::same_as<typename C::Output>;
  c.barrier();
  c.store_all(team, out, tile, c.load_sum(order, in, tile));
  c.close(out);
};

}  // namespace mixcomm
