// The CPU context: buffers in shared memory, a tile is a whole run of elements, sums are made when they are
// stored.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "algorithms/context.hpp"
#include "backend.hpp"
#include "cpu/channel.hpp"
#include "cpu/kernels.hpp"
#include "cpu/staging.hpp"
#include "mutant.hpp"

namespace mixcomm::cpu {

/// A buffer of which every rank has one, at the same place of a slice of shared memory.
struct View {
  std::byte* first = nullptr;  ///< rank 0's
  std::ptrdiff_t stride = 0;   ///< from one rank's to the next one's
  Coordinates coordinates = Coordinates::packed;
  bool staged = false;
  bool mirrored = false;  ///< packed, the last block first
};

/// How far a pass has come that does not wait, but is begun anew when others have arrived.
struct Progress {
  int segment = 0;       ///< the barriers behind it
  bool arrived = false;  ///< at the next one: what there was to do before it is done
};

/// What a pass works with. `in` and `out` are only looked at where the call's placement is not plain.
struct PassBuffers {
  View in;
  View out;
  View staged_in;
  View staged_out;
  Stores staging = Stores::cached;  ///< how input is staged
  Stores pushing = Stores::cached;  ///< how sums are written to peers
  Progress* progress = nullptr;     ///< null: a pass that waits where others have not arrived
};

template <class T>
class CpuContext {
 public:
  using Input = View;
  using Output = View;
  /// What a run holds of one block: the kernels cut it up for the cache.
  struct Tile {
    int block = 0;
    Range range;
  };

  /// Lazy: `store` knows where the result goes, and makes one run over all sources.
  struct Sum {
    SumOrder order;
    View in;
  };

  CpuContext(const Call& call, const Grid& grid, Channel& channel, const PassBuffers& buffers)
      : call_(call), grid_(grid), channel_(channel), buffers_(buffers), hash_(call.record.hash()) {
    if (buffers.progress != nullptr) done_ = *buffers.progress;
  }

  Input share() {
    if (call_.in_placement.kind != Placement::Kind::plain) return buffers_.in;
    const Range not_read = call_.blocks.share(grid_.world.member, grid_.world.size);  // nobody else sums it
    const std::size_t end = not_read.begin + not_read.size;
    if (acts()) {
      stage_input({0, not_read.begin});
      stage_input({end, call_.blocks.packed_size() - end});
    }
    return buffers_.staged_in;
  }

  Input publish() {
    if (!call_.reads_in_place && acts()) stage_input(call_.blocks.everything());
    barrier();
    return call_.reads_in_place ? buffers_.in : buffers_.staged_in;
  }

  void retract(const Input& in) {
    if (!in.staged) barrier();  // peers may still be reading it
  }

  Output open() {
    return call_.out_placement.kind != Placement::Kind::plain ? buffers_.out : buffers_.staged_out;
  }

  /// Fetches from each other rank's workspace what it has summed of my output.
  void close(const Output& out) {
    if (!out.staged || !acts()) return;
    const int world = grid_.world.size;
    for (int i = 1; i < world; ++i) {
      const int member = (grid_.world.member + i) % world;
      for (const Tile tile : tiles(call_.blocks.share(member, world)))
        if (needs(tile.block)) fetch(out, member, tile);
    }
  }

  void barrier() {
    const int segment = segment_;
    if (segment < done_.segment) {
      ++segment_;
    } else if (!parked_) {
      parked_ = !passes_barrier(segment);
      if (parked_) return;
      done_ = {segment + 1, false};
      ++segment_;
    }
  }
  /// Whether the pass is through; else it is to be run again when the others have arrived, and goes on where
  /// it stopped.
  [[nodiscard]] bool is_through() {
    if (buffers_.progress != nullptr) *buffers_.progress = done_;
    return !parked_;
  }
  /// How much of the time, in ticks(), this rank has been in barriers.
  [[nodiscard]] std::uint64_t waited() const { return waited_; }

  /// The blocks that have elements in a run, from my own on: ranks then do not all read the same rank's
  /// memory at the same time.
  class Tiles {
   public:
    class Iterator {
     public:
      Iterator(const Tiles& tiles, int i) : tiles_(tiles), i_(tiles.next(i)) {}
      Tile operator*() const {
        const int d = tiles_.block(i_);
        return {d, tiles_.blocks_.overlap(tiles_.run_, d)};
      }
      Iterator& operator++() {
        i_ = tiles_.next(i_ + 1);
        return *this;
      }
      bool operator!=(const Iterator& other) const { return i_ != other.i_; }

     private:
      const Tiles& tiles_;
      int i_;
    };
    Tiles(const Blocks& blocks, Range run, int first) : blocks_(blocks), run_(run), first_(first) {}
    [[nodiscard]] Iterator begin() const { return {*this, 0}; }
    [[nodiscard]] Iterator end() const { return {*this, blocks_.dp()}; }

   private:
    [[nodiscard]] int block(int i) const { return (first_ + i) % blocks_.dp(); }
    [[nodiscard]] int next(int i) const {
      while (i < blocks_.dp() && blocks_.overlap(run_, block(i)).size == 0) ++i;
      return i;
    }
    const Blocks& blocks_;
    Range run_;
    int first_;
  };
  [[nodiscard]] Tiles tiles(Range run) const { return {call_.blocks, run, grid_.dp.member}; }

  [[nodiscard]] Sum load_sum(const SumOrder& order, const Input& in, const Tile& /*tile*/) const {
    return {order, in};
  }

  void store(const Tile& tile, const Sum& sum) {
    if (!acts()) return;
    void* destination = mine(call_.out, call_.gathers, tile.block) + tile.range.begin;
    add_up(tile, sum, {&destination, 1}, 0);
  }

  void store_all(const Team& team, const Output& out, const Tile& tile, const Sum& sum) {
    if (!acts()) return;
    std::array<void*, max_ranks> destinations;
    std::size_t count = 0;
    if (needs(tile.block))
      destinations[count++] = mine(call_.out, call_.gathers, tile.block) + tile.range.begin;
    const std::size_t kept = count;
    if (out.staged) {  // the others fetch it, once
      if (team.size > 1 || kept == 0)
        destinations[count++] = at(out, grid_.rank(), tile.block, tile.range.begin);
    } else {
      for (int m = 0; m < team.size; ++m)
        if (team.rank(m) != grid_.rank())
          destinations[count++] = at(out, team.rank(m), tile.block, tile.range.begin);
    }
    add_up(tile, sum, {destinations.data(), count},
           buffers_.pushing == Stores::streamed ? static_cast<int>(count - kept) : 0);
  }

 private:
  /// Whether what a verb does is still to be done, and its turn has come.
  [[nodiscard]] bool acts() const { return segment_ == done_.segment && !done_.arrived; }

  /// Arrives at the barrier behind this segment, once; whether all have.
  bool passes_barrier(int segment) {
    if (current_mutant() == (segment == 0 ? Mutant::no_first_barrier : Mutant::no_second_barrier))
      return true;
    if (!done_.arrived) channel_.arrive(hash_);
    done_.arrived = true;
    const std::uint64_t begin = ticks();
    bool met = true;
    if (buffers_.progress == nullptr)
      channel_.meet(call_.record);
    else
      met = channel_.has_met();
    waited_ += ticks() - begin;
    return met;
  }

  /// The covered part of block d in a buffer of the caller's.
  template <class Void>
  [[nodiscard]] auto mine(Void* buffer, bool all_blocks, int d) const {
    using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
    return static_cast<Element*>(buffer) +
           call_.blocks.start(all_blocks ? Coordinates::all_blocks : Coordinates::one_block, d);
  }

  [[nodiscard]] T* at(const View& view, int rank, int d, std::size_t i) const {
    const std::size_t start = view.mirrored ? call_.blocks.packed_size() - call_.blocks.packed_end(d)
                                            : call_.blocks.start(view.coordinates, d);
    return reinterpret_cast<T*>(view.first + rank * view.stride) + start + i;
  }

  /// What a run holds of my input, to where peers can read it.
  void stage_input(Range run) {
    const bool alone = grid_.tp.size == 1;
    for (const Tile tile : tiles(run)) {
      const bool own = tile.block == grid_.dp.member;
      if (call_.gathers && !own) continue;
      // Where nobody else sums my block of a scattered tensor, it stays where it is.
      if (!call_.gathers && alone && own && call_.algorithm == Algorithm::one_shot) continue;
      copy(at(buffers_.staged_in, grid_.rank(), tile.block, tile.range.begin),
           mine(call_.in, !call_.gathers, tile.block) + tile.range.begin, tile.range.size * sizeof(T),
           buffers_.staging);
    }
  }

  /// A tile of my output, from where member `member` left it.
  void fetch(const View& out, int member, const Tile& tile) const {
    copy(mine(call_.out, call_.gathers, tile.block) + tile.range.begin,
         at(out, grid_.world.rank(member), tile.block, tile.range.begin), tile.range.size * sizeof(T),
         Stores::cached);
  }

  /// Whether my output holds block d.
  [[nodiscard]] bool needs(int d) const { return call_.gathers || d == grid_.dp.member; }

  /// A tile of a rank's input; of my own where the caller has it, which may be closer than what I staged.
  [[nodiscard]] const void* source(const View& in, int rank, const Tile& tile) const {
    if (in.staged && rank == grid_.rank())
      return mine(call_.in, !call_.gathers, tile.block) + tile.range.begin;
    return at(in, rank, tile.block, tile.range.begin);
  }

  void add_up(const Tile& tile, const Sum& sum, std::span<void* const> destinations, int streamed) const {
    std::array<const void*, max_ranks> sources;
    const int inner = sum.order.inner.size;
    std::size_t count = 0;
    for (int o = 0; o < sum.order.outer_size; ++o)
      for (int i = 0; i < inner; ++i) sources[count++] = source(sum.in, sum.order.rank(i, o), tile);
    ordered_sum({.dtype = dtype_of<T>,
                 .sources = sources.data(),
                 .inner = inner,
                 .outer = sum.order.outer_size,
                 .destinations = destinations.data(),
                 .destination_count = static_cast<int>(destinations.size()),
                 .streamed_count = streamed,
                 .size = tile.range.size});
  }

  const Call& call_;
  const Grid& grid_;
  Channel& channel_;
  const PassBuffers& buffers_;
  std::uint32_t hash_;
  std::uint64_t waited_ = 0;
  Progress done_;        ///< what need not be done again, and what has been done since
  int segment_ = 0;      ///< barriers come to so far
  bool parked_ = false;  ///< others had not arrived at the one behind segment_
};

static_assert(OneShotContext<CpuContext<float>> && TwoShotContext<CpuContext<float>>);

}  // namespace mixcomm::cpu
