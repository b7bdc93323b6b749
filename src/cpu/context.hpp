// The CPU context: buffers in shared memory, a tile is a whole run of elements, sums are made when they are
// stored.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "algorithms/context.hpp"
#include "backend.hpp"
#include "cpu/channel.hpp"
#include "cpu/kernels.hpp"
#include "cpu/staging.hpp"
#include "cpu/thread_team.hpp"
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

/// Something to be done with one tile between two barriers, by one thread or by several. What they are is up
/// to CpuContext; a task can be cut up anywhere.
struct Task {
  enum class Kind : std::uint8_t {
    stage,      ///< the tile of my input, to where peers read it
    store,      ///< its sum, to my output
    store_all,  ///< its sum, to the output of each member of `team`
    fetch,      ///< the tile of my output, from where member `team.member` left it
  };
  Kind kind = Kind::stage;
  int block = 0;
  Range range;
  SumOrder order{};
  View in;
  View out;
  Team team{};
};

/// The threads of a pass that has several: the library's own or the caller's.
struct Helpers {
  std::shared_ptr<ThreadTeam> team;
  RunPieces workers;  ///< in place of the team
  int threads = 1;
  std::vector<Task> tasks;  ///< noted, and not done yet

  /// piece(i), 0 <= i < pieces, once each; all are through when it returns.
  template <class Piece>
  void run(int pieces, const Piece& piece) {
    if (workers)
      workers(pieces, std::cref(piece));
    else
      team->run(pieces, piece);
  }
};

/// What a pass works with. `in` and `out` are only looked at where the call's placement is not plain.
struct PassBuffers {
  View in;
  View out;
  View staged_in;
  View staged_out;
  Stores staging = Stores::cached;  ///< how input is staged
  Stores pushing = Stores::cached;  ///< how sums are written to peers
  Helpers* helpers = nullptr;       ///< none: the caller alone, at once
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
      : call_(call), grid_(grid), channel_(channel), buffers_(buffers), hash_(call.record.hash()) {}

  Input share() {
    if (call_.in_placement.kind != Placement::Kind::plain) return buffers_.in;
    const Range not_read = call_.blocks.share(grid_.world.member, grid_.world.size);  // nobody else sums it
    const std::size_t end = not_read.begin + not_read.size;
    stage_input({0, not_read.begin});
    stage_input({end, call_.blocks.packed_size() - end});
    return buffers_.staged_in;
  }

  Input publish() {
    if (!call_.reads_in_place) stage_input(call_.blocks.everything());
    barrier();
    return call_.reads_in_place ? buffers_.in : buffers_.staged_in;
  }

  void retract(const Input& in) {
    do_noted();
    if (!in.staged) barrier();  // peers may still be reading it
  }

  Output open() {
    return call_.out_placement.kind != Placement::Kind::plain ? buffers_.out : buffers_.staged_out;
  }

  /// Fetches from each other rank's workspace what it has summed of my output.
  void close(const Output& out) {
    if (!out.staged) return;
    const int world = grid_.world.size;
    for (int i = 1; i < world; ++i) {
      const int member = (grid_.world.member + i) % world;
      for (const Tile tile : tiles(call_.blocks.share(member, world)))
        if (!needs(tile.block))
          continue;
        else if (buffers_.helpers == nullptr)
          fetch(out, member, tile);
        else
          note({Task::Kind::fetch, tile.block, tile.range, {}, {}, out, {.member = member}});
    }
    do_noted();
  }

  void barrier() {
    const bool late = current_mutant() == Mutant::work_behind_barrier;
    if (!late) do_noted();
    meet();
    if (late) do_noted();
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
    if (buffers_.helpers == nullptr) return store_now(tile, sum);
    note({Task::Kind::store, tile.block, tile.range, sum.order, sum.in, {}, {}});
  }

  void store_all(const Team& team, const Output& out, const Tile& tile, const Sum& sum) {
    if (buffers_.helpers == nullptr) return store_all_now(team, out, tile, sum);
    note({Task::Kind::store_all, tile.block, tile.range, sum.order, sum.in, out, team});
  }

 private:
  void meet() {
    const bool first = barriers_++ == 0;
    if (current_mutant() == (first ? Mutant::no_first_barrier : Mutant::no_second_barrier)) return;
    const std::uint64_t begin = ticks();
    channel_.barrier(call_.record, hash_);
    waited_ += ticks() - begin;
  }

  void note(const Task& task) { buffers_.helpers->tasks.push_back(task); }

  /// Carries out what was noted since the last barrier, with all threads: one run, whatever tiles it has.
  void do_noted() {
    if (buffers_.helpers == nullptr || buffers_.helpers->tasks.empty()) return;
    const std::vector<Task>& tasks = buffers_.helpers->tasks;
    std::size_t granules = 0;
    for (const Task& task : tasks) granules += granules_of(task);
    const int pieces = static_cast<int>(
        std::min<std::size_t>(granules, static_cast<std::size_t>(buffers_.helpers->threads)));
    buffers_.helpers->run(pieces, [&](int i) {
      // Granules [begin, end) of all tasks, one behind the other.
      const auto count = static_cast<std::size_t>(pieces);
      std::size_t begin = granules * static_cast<std::size_t>(i) / count;
      const std::size_t end = granules * static_cast<std::size_t>(i + 1) / count;
      std::size_t first = 0;
      for (const Task& task : tasks) {
        const std::size_t next = first + granules_of(task);
        if (begin < end && begin < next) {
          const std::size_t from = (begin - first) * granule;
          const std::size_t to = std::min((std::min(end, next) - first) * granule, task.range.size);
          carry_out(task, {task.range.begin + from, to - from});
          begin = std::min(end, next);
        }
        first = next;
      }
    });
    buffers_.helpers->tasks.clear();
  }
  [[nodiscard]] static std::size_t granules_of(const Task& task) {
    return (task.range.size + granule - 1) / granule;
  }
  void carry_out(const Task& task, Range range) {
    const Tile tile{task.block, range};
    switch (task.kind) {
      case Task::Kind::stage:
        return stage(tile);
      case Task::Kind::store:
        return store_now(tile, {task.order, task.in});
      case Task::Kind::store_all:
        return store_all_now(task.team, task.out, tile, {task.order, task.in});
      case Task::Kind::fetch:
        return fetch(task.out, task.team.member, tile);
    }
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
      if (buffers_.helpers == nullptr)
        stage(tile);
      else
        note({Task::Kind::stage, tile.block, tile.range, {}, {}, {}, {}});
    }
  }
  void stage(const Tile& tile) const {
    copy(at(buffers_.staged_in, grid_.rank(), tile.block, tile.range.begin),
         mine(call_.in, !call_.gathers, tile.block) + tile.range.begin, tile.range.size * sizeof(T),
         buffers_.staging);
  }

  void store_now(const Tile& tile, const Sum& sum) const {
    void* destination = mine(call_.out, call_.gathers, tile.block) + tile.range.begin;
    add_up(tile, sum, {&destination, 1}, 0);
  }

  void store_all_now(const Team& team, const Output& out, const Tile& tile, const Sum& sum) const {
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
  int barriers_ = 0;  ///< of this pass
};

static_assert(OneShotContext<CpuContext<float>> && TwoShotContext<CpuContext<float>>);

}  // namespace mixcomm::cpu
