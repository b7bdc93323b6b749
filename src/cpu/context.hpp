// The CPU context: buffers in shared memory, a tile is a whole run of elements, sums are made when they are
// stored.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>

#include "algorithms/context.hpp"
#include "algorithms/two_shot.hpp"
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
  int spins = 0;         ///< how often to look whether others have arrived
  int segment = 0;       ///< the barriers behind it
  bool arrived = false;  ///< at the next one: what there was to do before it is done
};

/// What a pass works with. `in` and `out` are only looked at where the call's placement is not plain.
struct PassBuffers {
  View in;
  View out;
  View staged_in;
  View staged_out;   ///< in one_shot residuals
  View staged_kept;  ///< what is left for residual_out
  View staged_scales;
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
    const Range not_read = share_of(grid_.world.member);  // nobody else sums it
    const std::size_t end = not_read.begin + not_read.size;
    if (acts()) {
      stage_input({0, not_read.begin});
      stage_input({end, call_.blocks.packed_size() - end});
    }
    return buffers_.staged_in;
  }

  Input publish() {
    if (acts()) {
      if (!call_.reads_in_place) stage_input(call_.blocks.everything());
      if (call_.shares_residuals()) stage_residual();
    }
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
    if ((!out.staged && !keeps_for_team() && scales_ == 0) || !acts()) return;
    const int world = grid_.world.size;
    for (int i = 1; i < world; ++i) {
      const int member = (grid_.world.member + i) % world;
      for (const Tile tile : tiles(share_of(member)))
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
      done_.segment = segment + 1;
      done_.arrived = false;
      ++segment_;
    }
  }
  /// Whether the pass is through; else it is to be run again when the others have arrived, and goes on where
  /// it stopped.
  [[nodiscard]] bool is_through() {
    if (buffers_.progress != nullptr) *buffers_.progress = done_;
    return !parked_;
  }
  [[nodiscard]] bool has_epilogue() const { return call_.epilogue.any(); }
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
    for (const Subtotal& each : call_.subtotals) {
      void* destination =
          static_cast<std::byte*>(each.out) +
          (call_.blocks.start(Coordinates::one_block, tile.block) + tile.range.begin) * size_of(each.dtype);
      add_up(tile, {each.order, sum.in}, {&destination, 1}, 0, each.dtype);
    }
    if (!call_.subtotals.empty()) return;
    if (has_epilogue()) return finish_rows(tile, sum, Team::alone(grid_.rank()), {});
    void* destination = mine(call_.out, gathers(), tile.block) + tile.range.begin;
    add_up(tile, sum, {&destination, 1}, 0);
  }

  void store_all(const Team& team, const Output& out, const Tile& tile, const Sum& sum) {
    if (!acts()) return;
    if (has_epilogue()) return finish_rows(tile, sum, team, out);
    std::array<void*, max_ranks> destinations;
    std::size_t count = 0;
    if (needs(tile.block)) destinations[count++] = mine(call_.out, gathers(), tile.block) + tile.range.begin;
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
      met = channel_.has_met(done_.spins);
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

  /// Element i of the covered part of block d in a rank's buffer: how many there are before it.
  [[nodiscard]] std::size_t place(const View& view, int d, std::size_t i) const {
    const std::size_t start = view.mirrored ? call_.blocks.packed_size() - call_.blocks.packed_end(d)
                                            : call_.blocks.start(view.coordinates, d);
    return start + i;
  }
  [[nodiscard]] T* at(const View& view, int rank, int d, std::size_t i) const {
    return reinterpret_cast<T*>(view.first + rank * view.stride) + place(view, d, i);
  }
  /// The same where elements are those of my output.
  [[nodiscard]] std::byte* out_at(const View& view, int rank, int d, std::size_t i) const {
    return view.first + rank * view.stride + place(view, d, i) * out_bytes_;
  }
  [[nodiscard]] float* scales_at(int rank, int d, std::size_t i) const {
    const View& view = buffers_.staged_scales;
    return reinterpret_cast<float*>(view.first + rank * view.stride) +
           (place(view, d, i) / call_.hidden) * scales_;
  }
  /// The same places in what the caller has.
  [[nodiscard]] std::byte* my_out(int d, std::size_t i) const {
    return static_cast<std::byte*>(call_.out) + my_out_elements(d, i) * out_bytes_;
  }
  [[nodiscard]] float* my_scales(int d, std::size_t i) const {
    const std::size_t row = my_out_elements(d, i) / call_.hidden;
    return call_.epilogue.scales +
           (current_mutant() == Mutant::scale_of_another_row ? row + 1 : row) * scales_;
  }
  [[nodiscard]] std::size_t my_out_elements(int d, std::size_t i) const {
    return call_.blocks.start(gathers() ? Coordinates::all_blocks : Coordinates::one_block, d) + i;
  }

  /// What member `member` of the world sums in two_shot.
  [[nodiscard]] Range share_of(int member) const {
    return has_epilogue() ? two_shot_rows(grid_, call_.blocks, member)
                          : call_.blocks.share(member, grid_.world.size);
  }
  /// Whether residual_out is to be fetched from those who summed its rows.
  [[nodiscard]] bool keeps_for_team() const { return call_.epilogue.keeps() && grid_.tp.size > 1; }

  /// What a run holds of my input, to where peers can read it.
  void stage_input(Range run) {
    const bool alone = grid_.tp.size == 1;
    for (const Tile tile : tiles(run)) {
      const bool own = tile.block == grid_.dp.member;
      if (gathers() && !own) continue;
      // Where nobody else sums my block of a scattered tensor, it stays where it is.
      if (!gathers() && alone && own && call_.algorithm == Algorithm::one_shot) continue;
      copy(at(buffers_.staged_in, grid_.rank(), tile.block, tile.range.begin),
           mine(call_.in, !gathers(), tile.block) + tile.range.begin, tile.range.size * sizeof(T),
           buffers_.staging);
    }
  }

  /// Each TP rank stages a part of the residual that they all have: the rows that it would sum in two_shot.
  void stage_residual() {
    for (const Tile tile : tiles(share_of(grid_.world.member)))
      copy(at(buffers_.staged_out, grid_.rank(), tile.block, tile.range.begin),
           residual_of(tile.block, tile.range.begin), tile.range.size * sizeof(T), buffers_.staging);
  }
  /// The residual of the row that begins at element i: mine, or what a rank of its DP group has staged.
  [[nodiscard]] const void* residual_of(int d, std::size_t i) const {
    if (!call_.epilogue.adds()) return nullptr;
    if (d == grid_.dp.member) return mine(call_.epilogue.residual.data, false, d) + i;
    const std::size_t each = share_of_size(call_.blocks.size(d));
    return at(buffers_.staged_out, grid_.over_tp(d).inner.rank(static_cast<int>(i / each)), d, i);
  }
  [[nodiscard]] std::size_t share_of_size(std::size_t size) const {
    return mixcomm::share_of(size, grid_.tp.size, call_.blocks.step());
  }

  /// The rows of a tile with their epilogue: to my output, and to that of the others of `team`.
  void finish_rows(const Tile& tile, const Sum& sum, const Team& team, const Output& out) const {
    const Epilogue& epilogue = call_.epilogue;
    std::array<const void*, max_ranks> sources;
    std::array<void*, max_ranks> destinations;
    std::array<void*, 2> kept;
    std::array<float*, 2> scales;
    const bool for_others = team.size > 1;
    const bool keeps = epilogue.keeps() && tile.block == grid_.dp.member;
    const std::size_t end = rows_end(tile);
    for (std::size_t i = tile.range.begin; i < end; i += call_.hidden) {
      const Tile row{tile.block, {i, call_.hidden}};
      std::size_t count = 0;
      destinations[count++] = my_out(row.block, i);
      if (out.staged && for_others) destinations[count++] = out_at(out, grid_.rank(), row.block, i);
      for (int m = 0; m < team.size && !out.staged; ++m)
        if (team.rank(m) != grid_.rank()) destinations[count++] = out_at(out, team.rank(m), row.block, i);
      std::size_t kept_count = 0;
      if (keeps) kept[kept_count++] = mine(epilogue.residual_out.data, false, row.block) + i;
      if (keeps && for_others && keeps_for_team())
        kept[kept_count++] = at(buffers_.staged_kept, grid_.rank(), row.block, i);
      std::size_t scales_count = 0;
      if (scales_ > 0) scales[scales_count++] = my_scales(row.block, i);
      if (scales_ > 0 && for_others) scales[scales_count++] = scales_at(grid_.rank(), row.block, i);
      RowEpilogue finished =
          row_epilogue(epilogue,
                       sum_of(row, sum, sources, {destinations.data(), count},
                              buffers_.pushing == Stores::streamed ? static_cast<int>(count) - 1 : 0),
                       call_.hidden);
      finished.residual = residual_of(row.block, i);
      finished.kept = {kept.data(), kept_count};
      finished.scales = {scales.data(), scales_count};
      if constexpr (has_mutants)
        finish_row_wrongly(finished, sources);
      else
        finish_row(finished);
    }
  }

  /// Where the rows of a tile end.
  [[nodiscard]] std::size_t rows_end(const Tile& tile) const {
    const std::size_t end = tile.range.begin + tile.range.size;
    const bool last = tile.block == call_.blocks.dp() - 1 && end == call_.blocks.size(tile.block);
    return current_mutant() == Mutant::rows_beyond_are_normed && last ? end + call_.hidden : end;
  }
  /// One row, as the mutant that is on has it.
  void finish_row_wrongly(RowEpilogue row, std::array<const void*, max_ranks>& sources) const {
    const Mutant mutant = current_mutant();
    const void* const residual = row.residual;
    if (mutant == Mutant::residual_of_each_rank && residual != nullptr && row.sum.outer == 1)
      for (int t = 1; t < grid_.tp.size; ++t) sources[static_cast<std::size_t>(row.sum.inner++)] = residual;
    if (mutant == Mutant::mean_over_padded_width) row.width = std::bit_ceil(row.width);
    if (mutant == Mutant::norm_before_residual) row.residual = nullptr;
    finish_row(row);
    if (mutant != Mutant::norm_before_residual) return;
    const std::span<void* const> all(row.sum.destinations,
                                     static_cast<std::size_t>(row.sum.destination_count));
    sources[0] = all.front();
    row.sum.inner = row.sum.outer = 1;
    row.residual = residual;
    row.weight = nullptr;
    finish_row(row);
  }

  /// A tile of my output, from where member `member` left it.
  void fetch(const View& out, int member, const Tile& tile) const {
    const int rank = grid_.world.rank(member);
    const std::size_t begin = tile.range.begin;
    if (out.staged)
      copy(my_out(tile.block, begin), out_at(out, rank, tile.block, begin), tile.range.size * out_bytes_,
           Stores::cached);
    if (!has_epilogue()) return;
    if (scales_ > 0)
      copy(my_scales(tile.block, begin), scales_at(rank, tile.block, begin),
           tile.range.size / call_.hidden * scales_ * sizeof(float), Stores::cached);
    if (keeps_for_team() && tile.block == grid_.dp.member)
      copy(mine(call_.epilogue.residual_out.data, false, tile.block) + begin,
           at(buffers_.staged_kept, rank, tile.block, begin), tile.range.size * sizeof(T), Stores::cached);
  }

  /// Whether my output holds block d.
  [[nodiscard]] bool gathers() const { return call_.body == Body::gather; }
  [[nodiscard]] bool needs(int d) const { return gathers() || d == grid_.dp.member; }

  /// A tile of a rank's input; of my own where the caller has it, which may be closer than what I staged.
  [[nodiscard]] const void* source(const View& in, int rank, const Tile& tile) const {
    if (in.staged && rank == grid_.rank()) return mine(call_.in, !gathers(), tile.block) + tile.range.begin;
    return at(in, rank, tile.block, tile.range.begin);
  }

  void add_up(const Tile& tile, const Sum& sum, std::span<void* const> destinations, int streamed,
              DType out = dtype_of<T>) const {
    std::array<const void*, max_ranks> sources;
    OrderedSum all = sum_of(tile, sum, sources, destinations, streamed);
    all.out = out;
    ordered_sum(all);
  }
  [[nodiscard]] OrderedSum sum_of(const Tile& tile, const Sum& sum,
                                  std::array<const void*, max_ranks>& sources,
                                  std::span<void* const> destinations, int streamed) const {
    const int inner = sum.order.inner.size;
    std::size_t count = 0;
    for (int o = 0; o < sum.order.outer_size; ++o)
      for (int i = 0; i < inner; ++i) sources[count++] = source(sum.in, sum.order.rank(i, o), tile);
    return {.dtype = dtype_of<T>,
            .sources = sources.data(),
            .inner = inner,
            .outer = sum.order.outer_size,
            .destinations = destinations.data(),
            .destination_count = static_cast<int>(destinations.size()),
            .streamed_count = streamed,
            .size = tile.range.size};
  }

  const Call& call_;
  const Grid& grid_;
  Channel& channel_;
  const PassBuffers& buffers_;
  std::uint32_t hash_;
  std::size_t out_bytes_ = call_.epilogue.quantizes() ? 1 : sizeof(T);  ///< of an element of the output
  std::size_t scales_ = scales_per_row(call_.epilogue.quantize, call_.hidden);
  std::uint64_t waited_ = 0;
  Progress done_;        ///< what need not be done again, and what has been done since
  int segment_ = 0;      ///< barriers come to so far
  bool parked_ = false;  ///< others had not arrived at the one behind segment_
};

static_assert(OneShotContext<CpuContext<float>> && TwoShotContext<CpuContext<float>>);

}  // namespace mixcomm::cpu
