// What an algorithm needs of a backend. A context is one rank's end of one pass of one operation.
#pragma once

#include <concepts>
#include <cstddef>

#include "algorithms/blocks.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm {

/// Verbs, each called by every rank of the grid in the same order. Elements are addressed as (block d, offset
/// in the covered part of it); where they lie (user buffer, symmetric or not, workspace) is the context's
/// affair.
///
///   share()               my input, where peers can read it after the next barrier()
///   publish()             a copy of my input that peers can read at once when this returns (it waits for
///   theirs);
///                         the input may be overwritten after it, and no barrier() is needed before the next
///                         pass
///   open() / close(out)   my output, where peers can write between two barriers; close() after the last one
///   barrier()             every rank of the grid has come here, and sees what the others wrote before
///   tiles(range)          `range` cut into the pieces that load_sum and store take
///   load_sum(order, in, d, tile)      the ordered sum of a tile of block d over the ranks of `order`, in
///   fp32 store(d, tile, sum)               the sum, rounded once, to my output store_all(team, out, d, tile,
///   sum)  ... to the output of every member of `team`
template <class C>
concept Context = requires(C c, const Team& team, const SumOrder& order, Range range, int d,
                           typename C::Input in, typename C::Output out) {
  { c.share() } -> std::same_as<typename C::Input>;
  { c.publish() } -> std::same_as<typename C::Input>;
  { c.open() } -> std::same_as<typename C::Output>;
  c.close(out);
  c.barrier();
  c.tiles(range);
  c.store(d, range, c.load_sum(order, in, d, range));
  c.store_all(team, out, d, range, c.load_sum(order, in, d, range));
};

}  // namespace mixcomm
