// The context of operations with an epilogue: whole rows are summed, normed and sent by one lane of one rank.
#pragma once

#include "cuda/messages.cuh"
#include "cuda/packs.cuh"
#include "cuda/row_arguments.hpp"
#include "epilogue/arithmetic.hpp"

namespace mixcomm::cuda {

/// A kernel is for a dtype, a wire, an operation that gathers or one that scatters, and one_shot or two_shot.
/// Which epilogue it is are values, the same for all threads. `held`: threads keep the sums of their tiles
/// until they norm them, and there are no images; see can_hold().
///
/// A pass is: my input to who sums it; then, for as many rows at a time as there is room for images, sums
/// into images, the norm of those, and (two_shot) what came of it to all who need it; then what others have
/// normed. Teams of threads deal the tiles of a row among them: where a lane has threads for all, each has
/// one, so that a row takes one step in each phase. All threads norm a row together, eight columns each.
///
/// What of a block's rows is whose is the same as on the CPU: in one_shot all that a rank needs, in two_shot
/// its share of its own DP group's block, since a residual is on the ranks of that group alone. In one_shot
/// the other groups need it: rank t of the group sends them row r's, where r mod tp is t, as one more source.
///
/// Where the output lies over the input, or residual_out over the residual: a tile is sent, summed and
/// written by the same thread, unless a lane has several rows at a time; then all that the pass sends is read
/// before anything is written. What is normed is written when all of its row is summed.
template <class T, template <class> class WireOf, Body body, bool one_shot, bool held>
class RowContext : public Messages<WireOf<T>> {
  using OverWire = WireOf<T>;
  using Base = Messages<OverWire>;
  using Base::a_;
  using Base::b_;
  using Base::greets_;
  using Base::hello;
  using Base::keep;
  using Base::look_for_greeting;
  using Base::me;
  using Base::members;
  using Base::missing_for;
  using Base::my_source;
  using Base::number;
  using Base::parity;
  using Base::passes_;
  using Base::receive;
  using Base::send_to;
  using Base::state_;
  using Base::waited;
  using Base::workspace;
  using Data = typename OverWire::Data;
  using Received = typename OverWire::Received;
  using Route = typename Base::Route;
  using OutWire = WireOf<fp8_e4m3>;
  using ScaleWire = WireOf<float>;

  static constexpr bool gathers = body == Body::gather;
  static_assert(!held || (OverWire::kind == Wire::lines && sizeof(T) == 2));
  /// Sources that are waited for at a time.
  static constexpr int batch = 4;
  static constexpr int depth = 2;  ///< rows that are taken at a time
  static constexpr Place group = epilogue::group;

 public:
  /// What threads tell each other of a row, in shared memory; for rows in turns.
  struct Shared {
    float squares[2][most_groups];
    float largest[2][most_row_threads / 32];
    Place extent;  ///< rows from one source's to the next one's, where they come in
  };

  __device__ RowContext(const RowArguments& a, const LaneBlocks& blocks, Shared& shared, std::byte* memory)
      : Base(a.call, blocks),
        r_(a),
        e_(a.epilogue),
        shared_(shared),
        weight_(a.weight_bytes > 0 ? reinterpret_cast<T*>(memory) : nullptr),
        images_(memory + a.weight_bytes) {}

  /// What can be known before the previous kernel is complete.
  __device__ void prepare() {
    greets_ = !one_shot;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) greets_ |= b_.size(d) == 0;
    if (a_.mutant.is(Mutant::no_greeting)) greets_ = false;
    mine_ = share_of_mine();
    Place extent = 0;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) {
      const auto room = static_cast<Place>(b_.packed_end(d) - b_.start(Coordinates::packed, d));
      const Place summed = one_shot ? room : divide_up(room, a_.grid.tp.size);
      if (one_shot && gathers)
        extent += summed;
      else if (summed > extent)
        extent = summed;
    }
    shared_.extent = extent;  // the same by all threads
    if (held) no_squares_behind(r_.deal.tiles * groups_of_tile);
    if (r_.images_in_workspace) images_ = workspace(me()) + a_.workspace.area(Area::staged_in(), blockIdx.x);
  }

  /// One pass; false if the communicator has failed. All threads return the same.
  __device__ bool pass() {
    send();
    if (passes_ == 0 && weight_ != nullptr) fetch_weight();
    const std::uint32_t expected = expect_weight();
    if (!held && r_.deal.rows_step > 1) __syncthreads();  // all have read what they send
    const Place count = rows_to_sum();
    int turn = 0;
    for (Place first = 0;; first += r_.rows_at_once) {
      const Place left = count - first;
      const Place rows = left < r_.rows_at_once ? left : r_.rows_at_once;
      sum(first, rows);
      if (first == 0 && weight_ != nullptr) ptx::copies_done();
      if (first == 0) ptx::keep(expected);
      // A row that has not come is not sent on.
      if (__syncthreads_or(lost_)) return false;
      // All have looked at the state.
      if (first == 0 && passes_ + 1 == a_.passes && !r_.local) keep(number(), this->barriers());
      if (held) {
        if (rows > 0) norm_held(row_to_sum(first), first % 2);
        if (left <= 1) break;
        continue;
      }
      if (e_.changes()) {
        MIXCOMM_ROLLED
        for (Place i = 0; i < rows; ++i, turn ^= 1) norm(row_to_sum(first + i), i, turn);
        if (!one_shot) __syncthreads();
      }
      if (!one_shot && members() > 1) send_out(first, rows);
      if (left <= r_.rows_at_once) break;
      __syncthreads();  // images are read
    }
    if (!one_shot) close();
    if (greets_ && !lost_) hear_all();
    waited();
    ++passes_;
    return true;
  }

 private:
  static constexpr int nobody = -1;

  [[nodiscard]] __device__ static Place divide_up(Place a, Place b) { return (a + b - 1) / b; }

  /// A row of this pass: of block d, from the first one that it covers of that on.
  struct Row {
    int d;
    Place r;
  };
  /// A tile of row i of those that a phase is about, or none, for a team that only keeps step.
  struct RowTile {
    Place i;
    Place tile;
    bool there;
  };
  [[nodiscard]] __device__ int own() const { return a_.grid.dp.member; }
  [[nodiscard]] __device__ Place rows_of(int d) const { return static_cast<Place>(b_.size(d)); }
  [[nodiscard]] __device__ Place packed(const Row& row) const {
    return static_cast<Place>(b_.start(Coordinates::packed, row.d)) + row.r;
  }
  /// Those rows of my block that I sum: `first`, and each step()-th behind it.
  struct Share {
    Place first;
    Place size;
  };
  [[nodiscard]] __device__ Place step() const { return one_shot ? 1 : static_cast<Place>(a_.grid.tp.size); }
  /// two_shot: whose row of its block a row is, by member of the TP team. Rows are dealt one by one, from one
  /// lane and pass to the next, so that ranks have equal work where lanes have a row each.
  [[nodiscard]] __device__ Place owner(const Row& row) const {
    const auto tp = static_cast<Place>(a_.grid.tp.size);
    return (static_cast<Place>(b_.start(Coordinates::one_block, row.d)) + row.r) % tp;
  }
  [[nodiscard]] __device__ Share share_of_mine() const {
    const Place rows = rows_of(own());
    if (one_shot) return {0, rows};
    const auto tp = static_cast<Place>(a_.grid.tp.size);
    const Place begin = owner({own(), 0});
    const Place me_in_tp = static_cast<Place>(a_.grid.tp.member);
    const Place first = me_in_tp >= begin ? me_in_tp - begin : me_in_tp + tp - begin;
    return {first, rows > first ? divide_up(rows - first, tp) : 0};
  }

  [[nodiscard]] __device__ Place all_rows() const {
    Place rows = 0;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) rows += rows_of(d);
    return rows;
  }
  /// Row i of all blocks, without what I sum of mine if `without`.
  [[nodiscard]] __device__ Row row_of_all(Place i, bool without) const {
    int d = 0;
    MIXCOMM_ROLLED
    for (; d + 1 < a_.grid.dp.size; ++d) {
      const Place rows = rows_of(d) - (without && d == own() ? mine_.size : 0);
      if (i < rows) break;
      i -= rows;
    }
    return without && d == own() ? row_of_others(i) : Row{d, i};
  }
  /// Row i of my block, without what I sum of it.
  [[nodiscard]] __device__ Row row_of_others(Place i) const {
    const Place others = step() - 1;
    const Place turn = i / others;
    const Place place = i - turn * others;
    return {own(), turn * step() + place + (place < mine_.first ? 0 : 1)};
  }

  [[nodiscard]] __device__ Place rows_to_sum() const { return one_shot && gathers ? all_rows() : mine_.size; }
  [[nodiscard]] __device__ Row row_to_sum(Place i) const {
    return one_shot && gathers ? row_of_all(i, false) : Row{own(), mine_.first + i * step()};
  }

  // Tiles of rows.

  /// What of a deal is this thread's team's.
  struct TeamPlace {
    Place row;   ///< of those that are dealt at a time
    Place tile;  ///< the first one of a row
    __device__ explicit TeamPlace(const RowDeal& deal) {
      const Place team = threadIdx.x / OverWire::threads;
      row = !held && deal.rows_step > 1 ? team / deal.tiles : 0;
      tile = team - row * deal.tiles;
    }
  };
  /// f(row, tile) for the tiles of this thread's team, of `count` rows, row i of which is row_of(i). All
  /// teams go in step.
  template <class RowOf, class F>
  __device__ static void each_tile(const RowDeal& deal, Place count, const RowOf& row_of, const F& f) {
    const TeamPlace mine(deal);
    MIXCOMM_ROLLED
    for (Place from = 0; from < count; from += deal.rows_step) {
      const Place i = from + mine.row;
      const bool has = mine.row < deal.rows_step && i < count;
      const Row row = row_of(has ? i : from);
      MIXCOMM_ROLLED
      for (Place begin = 0; begin < deal.tiles; begin += deal.tiles_step) {
        const Place tile = begin + mine.tile;
        f(row, RowTile{i, tile, has && tile < deal.tiles});
      }
    }
  }
  [[nodiscard]] __device__ static std::size_t wire_bytes(Place tiles) {
    return static_cast<std::size_t>(tiles) * OverWire::bytes_of(OverWire::elements);
  }
  template <class U>
  [[nodiscard]] __device__ static typename WireOf<std::remove_const_t<U>>::template User<U> user(U* row,
                                                                                                 Place width,
                                                                                                 Place tile) {
    return {row, width, tile * static_cast<Place>(WireOf<std::remove_const_t<U>>::elements)};
  }
  template <class U>
  [[nodiscard]] __device__ static Data load(const U* row, Place width, Place tile) {
    return WireOf<U>::picked(user(row, width, tile).load(), tile * static_cast<Place>(WireOf<U>::elements));
  }
  /// A tile of a row of T on its way: nothing waits for it before loaded().
  using Loaded = std::conditional_t<held, Words<8>, Data>;
  [[nodiscard]] __device__ Loaded begin_load(const T* row, Place tile) const {
    if constexpr (held)
      return load_groups(row, tile);
    else
      return load(row, r_.hidden, tile);
  }
  [[nodiscard]] __device__ static Data loaded(Loaded x) {
    if constexpr (held)
      if (is_cut()) x.word[4] = x.word[2], x.word[5] = x.word[3];
    return x;
  }
  [[nodiscard]] __device__ Data load_row(const T* row, Place tile) const {
    return loaded(begin_load(row, tile));
  }
  __device__ void store_row(T* row, Place tile, const Data& x) const {
    if constexpr (held)
      store_groups(row, tile, x);
    else
      user(row, r_.hidden, tile).store(x);
  }

  /// Waits until every member has greeted.
  __device__ void hear_all() {
    const bool greeted = threadIdx.x < members();
    while (OverWire::any(greeted && look_for_greeting().number() != number())) {
      if (!OverWire::any(!this->may_wait())) continue;
      if (greeted && look_for_greeting().number() != number())
        this->fail(FailureRecord::timeout, std::uint64_t{1} << threadIdx.x);
      lost_ = true;
      return;
    }
  }

  // Where rows lie.

  [[nodiscard]] __device__ std::size_t out_row(const Row& row) const {
    return b_.start(gathers ? Coordinates::all_blocks : Coordinates::one_block, row.d) + row.r;
  }
  [[nodiscard]] __device__ const T* in(const Row& row) const {
    return static_cast<const T*>(a_.in) +
           (b_.start(gathers ? Coordinates::one_block : Coordinates::all_blocks, row.d) + row.r) * r_.hidden;
  }
  template <class U>
  [[nodiscard]] __device__ U* out(const Row& row) const {
    return static_cast<U*>(a_.out) + out_row(row) * r_.hidden;
  }
  /// Of my block.
  [[nodiscard]] __device__ std::size_t own_row(const Row& row) const {
    return (b_.start(Coordinates::one_block, row.d) + row.r) * r_.hidden;
  }
  [[nodiscard]] __device__ const T* residual(const Row& row) const {
    return static_cast<const T*>(e_.residual) + own_row(row);
  }
  [[nodiscard]] __device__ T* residual_out(const Row& row) const {
    return static_cast<T*>(e_.residual_out) + own_row(row);
  }
  [[nodiscard]] __device__ Place scales() const {
    return static_cast<Place>(scales_per_row(e_.quantize, r_.hidden));
  }
  [[nodiscard]] __device__ float* scales(const Row& row) const { return e_.scales + out_row(row) * scales(); }
  [[nodiscard]] __device__ Place fp8_tiles() const { return divide_up(r_.hidden, OutWire::elements); }
  template <class U>
  [[nodiscard]] __device__ U* image(Place i, std::uint32_t offset) const {
    return reinterpret_cast<U*>(images_ + static_cast<std::size_t>(i) * r_.images.bytes + offset);
  }

  // What is sent to be summed.

  /// Where, in the area for what comes in, a tile of row i of those that its owner sums lies, from `source`.
  [[nodiscard]] __device__ std::size_t to_sum(int source, Place i, Place tile) const {
    return wire_bytes((static_cast<Place>(source) * shared_.extent + i) * r_.deal.tiles + tile);
  }
  [[nodiscard]] __device__ std::size_t in_offset() const {
    return a_.workspace.area(Area::in(OverWire::kind, parity()), blockIdx.x);
  }
  [[nodiscard]] __device__ std::size_t out_offset() const {
    return a_.workspace.area(Area::out(OverWire::kind, parity()), blockIdx.x);
  }

  /// By which way a row of my input goes to who sums it. `step`: from one rank of them to the next.
  struct Way {
    Route route;
    std::size_t step;
    int member;
  };
  [[nodiscard]] __device__ Way way_of(const Row& row, Place tile) const {
    const int source = gathers ? a_.grid.tp.member : my_source();
    if (one_shot) {
      const Team team = gathers ? a_.grid.world : a_.grid.over_tp(row.d).inner;
      const int less = gathers || row.d == own() ? 1 : 0;
      return {
          {a_.workspace.of(team.first) + in_offset() + to_sum(source, gathers ? packed(row) : row.r, tile),
           team.size, less},
          a_.workspace.stride * team.stride,
          gathers ? me() : a_.grid.tp.member};
    }
    const int rank = a_.grid.over_tp(row.d).inner.rank(static_cast<int>(owner(row)));
    const Place slot = row.r / static_cast<Place>(a_.grid.tp.size);
    return {{a_.workspace.of(rank) + in_offset() + to_sum(source, slot, tile), 1, 0}, 0, 0};
  }
  __device__ void send(const RowTile& tile, const Way& way, const Data& data) const {
    send_to(Tile{0, 0, 0, tile.there}, way.route, way.step, way.member, data);
  }

  /// All is loaded before the state is looked at, which is on its way as well.
  __device__ void send() {
    constexpr bool without = !one_shot;
    const Place rows = (gathers ? rows_of(own()) : all_rows()) - (without ? mine_.size : 0);
    const bool residual_travels = one_shot && gathers && e_.adds && a_.grid.dp.size > 1;
    const auto greet = [&] {
      lost_ = lost_ || state_.failed != 0;
      if (greets_ && !lost_ && threadIdx.x < members())
        ptx::store_packet(hello(threadIdx.x, me()), 0, number());
    };
    if (r_.local || rows == 0) return greet();
    bool greeted = false;
    each_tile(
        r_.deal, rows,
        [&](Place i) {
          if constexpr (!gathers) return row_of_all(i, without);
          if constexpr (without) return row_of_others(i);
          return Row{own(), i};
        },
        [&](const Row& row, RowTile t) {
          Loaded data{};
          Loaded rest{};
          const bool with_residual = residual_travels && t.there && hands_on_residual(row.r);
          if (t.there) data = begin_load(in(row), t.tile);
          if (with_residual) rest = begin_load(residual(row), t.tile);
          if (!greeted) greet();
          greeted = true;
          t.there = t.there && !lost_;
          send(t, way_of(row, t.tile), loaded(data));
          if (!residual_travels) return;
          t.there = t.there && with_residual;
          send(t, way_of_residual(row, t.tile), loaded(rest));
        });
  }
  [[nodiscard]] __device__ bool hands_on_residual(Place r) const {
    const auto tp = static_cast<Place>(a_.grid.tp.size);
    return (r < tp ? r : r % tp) == static_cast<Place>(a_.grid.tp.member);
  }

  /// One source more of my group's rows, for the other groups: from the next group's first rank on, to all
  /// but mine.
  [[nodiscard]] __device__ Way way_of_residual(const Row& row, Place tile) const {
    const Team& world = a_.grid.world;
    return {{a_.workspace.of(world.first) + in_offset() + to_sum(a_.grid.tp.size, packed(row), tile),
             world.size, a_.grid.tp.size},
            a_.workspace.stride * world.stride,
            (own() + 1) * a_.grid.tp.size - 1};
  }

  // Sums.

  /// The rounded sums of rows [first, first + rows) of those that I sum, to their images.
  __device__ void sum(Place first, Place rows) {
    each_tile(
        r_.deal, rows, [&](Place i) { return row_to_sum(first + i); },
        [&](const Row& row, const RowTile& t) {
          if (OverWire::any(lost_)) return;
          const Data x = sum_of(row, first + t.i, t);
          if (!t.there || lost_) return;
          if (e_.keeps && row.d == own()) store_row(residual_out(row), t.tile, x);
          if (held) return hold(x, t.tile, first % 2);
          if (!e_.changes()) store_row(out<T>(row), t.tile, x);
          if (e_.changes() || !one_shot) user(image<T>(t.i, 0), r_.hidden, t.tile).store(x);
        });
  }

  [[nodiscard]] __device__ Data sum_of(const Row& row, Place i, const RowTile& t) {
    const bool in_own_block = row.d == own();
    const SumOrder order = gathers ? a_.grid.over_tp(row.d) : a_.grid.over_world();
    const int mine = !gathers ? my_source() : in_own_block ? a_.grid.tp.member : nobody;
    const int summed = order.size();
    const bool travelled = one_shot && gathers && e_.adds && !in_own_block;  // the residual
    const int sources = summed + (travelled ? 1 : 0);
    Data mine_data{};
    Data residual_data{};
    Loaded mine_loaded{};
    if (mine != nobody && t.there) mine_loaded = begin_load(in(row), t.tile);
    const bool with_own_residual = e_.adds && in_own_block && t.there;
    if (gathers && with_own_residual) residual_data = load_row(residual(row), t.tile);
    // Registers are few.
    const std::uint32_t expected = held && !gathers && with_own_residual ? expect_residual(row, t.tile) : 0;
    mine_data = loaded(mine_loaded);
    const Place slot = one_shot && gathers ? packed(row) : i;
    const std::byte* from = workspace(me()) + in_offset() + to_sum(0, slot, t.tile);
    const std::size_t stride = to_sum(1, 0, 0);
    OrderedSum<T, Data::size, !gathers, 2> sum(order.inner.size, summed);
    for (int first = 0; first < sources;) {
      const int added = sum.next(first, batch);
      const bool residual_too = travelled && first + added == summed && added < batch;
      const int count = added + (residual_too ? 1 : 0);
      std::uint32_t here = t.there ? ~0U << count : ~0U;  // nothing is to come beyond the last source
      if (mine >= first && mine < first + added) here |= 1U << (mine - first);
      Received received[batch];
      if (!receive(received, here, [&](int k) { return from + static_cast<std::size_t>(k) * stride; })) {
        if (here != Base::template all_of<batch>)
          this->fail(FailureRecord::timeout, missing_of(row, order, slot, t));
        lost_ = true;
        return mine_data;
      }
      if constexpr (one_shot && gathers) {
#pragma unroll
        for (int k = 0; k < batch; ++k)
          if (residual_too && k == added) residual_data = OverWire::data(received[k]);
      }
      const auto source = [&](int k) { return first + k == mine ? mine_data : OverWire::data(received[k]); };
      if (added > 0) sum.template add<batch>(first, added, source);
      if (gathers && summed == 1 && first == 0) mine_data = source(0);
      first += count;
      from += static_cast<std::size_t>(count) * stride;
    }
    ptx::keep(expected);
    if (!gathers && with_own_residual) residual_data = load_row(residual(row), t.tile);
    if (e_.adds && !a_.mutant.is(Mutant::norm_before_residual)) sum.add_last(residual_data);
    if (e_.adds && a_.mutant.is(Mutant::residual_of_each_rank)) sum.add_last(residual_data);
    // One source is copied bit by bit.
    return summed == 1 && !e_.adds ? mine_data : sum.rounded();
  }

  [[nodiscard]] __device__ std::uint32_t expect_residual(const Row& row, Place tile) const {
    constexpr auto each = static_cast<Place>(OverWire::elements / OverWire::threads);
    const Place column =
        tile * static_cast<Place>(OverWire::elements) + threadIdx.x % OverWire::threads * each;
    return column < r_.hidden ? ptx::expect(residual(row) + column) : 0;
  }

  /// The members whose part of a row that I sum has not come.
  [[nodiscard]] __device__ std::uint64_t missing_of(const Row& row, const SumOrder& order, Place slot,
                                                    const RowTile& t) const {
    const auto bit = [&](int rank) {
      return std::uint64_t{1} << (rank - a_.grid.world.first) / a_.grid.world.stride;
    };
    std::uint64_t missing = 0;
    const std::byte* area = workspace(me()) + in_offset();
#pragma unroll 1
    for (int s = 0; s < order.size(); ++s) {
      const int rank = order.rank(s % order.inner.size, s / order.inner.size);
      if (rank != a_.grid.rank() && !OverWire::has_come(area + to_sum(s, slot, t.tile), number()))
        missing |= bit(rank);
    }
    if (missing != 0 || row.d == own()) return missing;
    return bit(order.inner.rank(static_cast<int>(row.r % a_.grid.tp.size)));  // the residual's
  }

  // The norm of what threads hold.

  /// Where a thread keeps its part of a tile, in shared memory.
  [[nodiscard]] __device__ uint4* slot_of(Place tile) const {
    const Place step = tile < r_.deal.tiles_step ? 0 : tile / r_.deal.tiles_step;
    return reinterpret_cast<uint4*>(images_) +
           (step * blockDim.x + threadIdx.x) * static_cast<Place>(held_bytes / 16);
  }
  /// Keeps a tile of a row's rounded sum, and tells of its squares.
  __device__ void hold(const Data& x, Place tile, int turn) {
    if constexpr (held) {
      last_ = x;
      if (r_.deal.tiles > r_.deal.tiles_step) {
        const std::uint32_t first[4] = {x.word[0], x.word[1], x.word[2], x.word[3]};
        const std::uint32_t second[4] = {x.word[4], x.word[5], x.word[6], x.word[7]};
        store_pack(slot_of(tile), first);
        store_pack(slot_of(tile) + 1, second);
      }
      float value[2][group];
      groups_of(x, value);
      float* const squares = shared_.squares[turn] + tile * groups_of_tile + part();
      squares[0] = epilogue::squares_of(value[0]);
      if (!is_cut()) squares[8] = epilogue::squares_of(value[1]);
    }
  }
  [[nodiscard]] __device__ Data in_slot(Place tile) const {
    if (r_.deal.tiles <= r_.deal.tiles_step) return last_;
    std::uint32_t first[4];
    std::uint32_t second[4];
    load_pack(slot_of(tile), first);
    load_pack(slot_of(tile) + 1, second);
    return {{first[0], first[1], first[2], first[3], second[0], second[1], second[2], second[3]}};
  }

  // A thread has two groups of a tile's columns, 64 apart. The last one of a tile has one, half of it in each
  // line.

  [[nodiscard]] __device__ static Place part() {
    return threadIdx.x % OverWire::threads;
  }
  [[nodiscard]] __device__ static bool is_cut() {
    return part() == OverWire::threads - 1;
  }
  [[nodiscard]] __device__ static Place first_column(Place tile) {
    return tile * static_cast<Place>(OverWire::elements) + part() * static_cast<Place>(group);
  }
  /// From rows that begin at multiples of 16 bytes, and are of whole groups.
  [[nodiscard]] __device__ Words<8> load_groups(const T* row, Place tile) const {
    const Place column = first_column(tile);
    std::uint32_t first[4] = {};
    std::uint32_t second[4] = {};
    if (column < r_.hidden) load_pack(row + column, first);
    if (!is_cut() && column + 64 < r_.hidden) load_pack(row + column + 64, second);
    return {{first[0], first[1], first[2], first[3], second[0], second[1], second[2], second[3]}};
  }
  __device__ void store_groups(T* row, Place tile, const Data& x) const {
    const Place column = first_column(tile);
    std::uint32_t first[4] = {x.word[0], x.word[1], x.word[2], x.word[3]};
    const std::uint32_t second[4] = {x.word[4], x.word[5], x.word[6], x.word[7]};
    if (is_cut()) first[2] = second[0], first[3] = second[1];
    if (column < r_.hidden) store_pack(row + column, first);
    if (!is_cut() && column + 64 < r_.hidden) store_pack(row + column + 64, second);
  }
  __device__ static void groups_of(const Data& x, float (&value)[2][group]) {
    Data ordered = x;
    if (is_cut()) ordered.word[2] = x.word[4], ordered.word[3] = x.word[5];
    float all[2 * group];
    to_floats<T>(ordered, all);
#pragma unroll
    for (int j = 0; j < 2 * static_cast<int>(group); ++j) value[j / group][j % group] = all[j];
  }
  [[nodiscard]] __device__ static Data data_of(const float (&value)[2][group]) {
    Data x;
#pragma unroll
    for (int w = 0; w < Data::size; ++w) {
      const float pair[2] = {value[w / 4][w % 4 * 2], value[w / 4][w % 4 * 2 + 1]};
      x.word[w] = Numbers<T>::pack(pair);
    }
    if (is_cut()) x.word[4] = x.word[2], x.word[5] = x.word[3];
    return x;
  }
  /// The norm reads the weight while all wait for it. What this returns is to be kept until then.
  [[nodiscard]] __device__ std::uint32_t expect_weight() const {
    if (!held || threadIdx.x * 16 >= r_.hidden) return 0;
    return ptx::expect(static_cast<const T*>(e_.weight) + threadIdx.x * 16);
  }
  /// Squares that no thread tells of.
  __device__ void no_squares_behind(Place groups) const {
    for (Place g = groups + threadIdx.x; g < most_groups; g += blockDim.x)
      shared_.squares[0][g] = shared_.squares[1][g] = 0;
  }

  /// Each thread norms what it holds of a row, and hands it out.
  __device__ void norm_held(const Row& row, int turn) const {
    if constexpr (held) {
      const auto groups = static_cast<Place>(divide_up(r_.hidden, group));
      float sum[4] = {};
      fold(shared_.squares[turn], groups, sum);
      const float inverse = inverse_of(sum);
      const Team& team = gathers ? a_.grid.world : a_.grid.tp;
      const int member = gathers ? me() : a_.grid.tp.member;
      std::byte* const area = a_.workspace.of(team.first) + out_offset();
      each_tile(
          r_.deal, 1, [&](Place) { return row; },
          [&](const Row&, const RowTile& t) {
            Data x{};
            Data y{};
            if (t.there) {
              x = in_slot(t.tile);
              float value[2][group];
              float weight[2][group];
              groups_of(x, value);
              groups_of(load_row(static_cast<const T*>(e_.weight), t.tile), weight);
#pragma unroll
              for (int k = 0; k < 2; ++k)
#pragma unroll
                for (int j = 0; j < static_cast<int>(group); ++j)
                  value[k][j] = epilogue::normed(value[k][j], inverse,
                                                 epilogue::factor(weight[k][j], e_.weight_plus_one));
              y = data_of(value);
              if (a_.mutant.is(Mutant::norm_before_residual) && e_.adds && row.d == own())
                y = sum_of_both(y, load_row(residual(row), t.tile));
              store_row(out<T>(row), t.tile, y);
            }
            if (one_shot || members() == 1) return;
            send(t,
                 {{area + to_put_out(row, t.tile), team.size, 1}, a_.workspace.stride * team.stride, member},
                 y);
            if (sends_kept()) send(t, way_of_kept(row, t.tile), x);
          });
    }
  }
  [[nodiscard]] __device__ static Data sum_of_both(const Data& a, const Data& b) {
    OrderedSum<T, Data::size, false, 0> sum(2, 2);
    sum.template add<2>(0, 2, [&](int k) { return k == 0 ? a : b; });
    return sum.rounded();
  }

  // The norm of images, and FP8.

  /// Columns [column, column + 8) of a row; 0 behind its end.
  __device__ void load_group(const T* row, Place column, float (&value)[group]) const {
    load_floats(row, r_.hidden, column, value);
  }
  /// The weight of the columns that this thread norms, while data are on their way. Each thread reads what it
  /// has copied.
  __device__ void fetch_weight() const {
    constexpr Place pack = 16 / sizeof(T);
    const auto* from = static_cast<const T*>(e_.weight);
    const bool aligned = reinterpret_cast<std::uintptr_t>(from) % 16 == 0;
    each_group([&](Place column) {
#pragma unroll
      for (Place i = column; i < column + group; i += pack) {
        if (aligned && i + pack <= r_.hidden) [[likely]]
          ptx::start_copy(weight_ + i, from + i);
        else if (i < r_.hidden)
          store_pack(weight_ + i, UserTile<const T, 4>(from, r_.hidden, i).load().word);
      }
    });
  }
  /// f(column) for the groups of columns of a row that this thread norms.
  template <class F>
  __device__ void each_group(const F& f) const {
    const Place step = blockDim.x * static_cast<Place>(group);
    MIXCOMM_ROLLED
    for (Place column = threadIdx.x * static_cast<Place>(group); column < r_.hidden; column += step)
      f(column);
  }

  /// What is to be handed out of row i of the images, in its image and in my output. All threads call it.
  __device__ void norm(const Row& row, Place i, int turn) const {
    T* const x = image<T>(i, 0);
    const float inverse = e_.norms() ? inverse_of(x, turn) : 1.0F;
    if (e_.quantize == Quantize::none) {
      each_group([&](Place column) {
        float y[group];
        norm_group(row, x, column, inverse, y);
        store_floats(out<T>(row), r_.hidden, column, y);
        if (!one_shot) store_floats(x, r_.hidden, column, y);
      });
    } else if (e_.quantize == Quantize::per_token) {
      quantize_by_token(row, x, i, inverse, turn);
    } else {
      quantize_by_columns(row, x, i, inverse);
    }
  }

  /// 1 / sqrt(...) of a row. By all threads.
  [[nodiscard]] __device__ float inverse_of(const T* x, int turn) const {
    constexpr Place most_columns = most_groups * static_cast<Place>(group);
    float(&squares)[most_groups] = shared_.squares[turn];
    float sum[4] = {};
    MIXCOMM_ROLLED
    for (Place begin = 0; begin < r_.hidden; begin += most_columns) {
      if (begin > 0) __syncthreads();  // all have read
      const Place columns = r_.hidden - begin < most_columns ? r_.hidden - begin : most_columns;
      const auto groups = static_cast<Place>(divide_up(columns, group));
      MIXCOMM_ROLLED
      for (Place g = threadIdx.x; g < round_up_groups(groups); g += blockDim.x) {
        float value[group];
        load_group(x, begin + g * group, value);
        squares[g] = epilogue::squares_of(value);
      }
      __syncthreads();
      fold(squares, groups, sum);
    }
    return inverse_of(sum);
  }
  static constexpr auto accumulators = static_cast<Place>(epilogue::accumulators);
  [[nodiscard]] __device__ static Place round_up_groups(Place groups) {
    return (groups + accumulators - 1) / accumulators * accumulators;
  }
  /// Adds the squares of groups to accumulators l, l + 32, l + 64 and l + 96, those of lane l of each warp.
  __device__ static void fold(const float (&squares)[most_groups], Place groups, float (&sum)[4]) {
    const Place lane = threadIdx.x % 32;
#pragma unroll 4
    for (Place g = 0; g < groups; g += accumulators) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] = epilogue::plus(sum[k], squares[g + lane + k * 32]);
    }
  }
  [[nodiscard]] __device__ float inverse_of(const float (&sum)[4]) const {
    float all = epilogue::plus(epilogue::plus(sum[0], sum[2]), epilogue::plus(sum[1], sum[3]));
#pragma unroll
    for (int other = 16; other > 0; other /= 2) all = epilogue::plus(all, __shfl_xor_sync(~0U, all, other));
    const bool padded = a_.mutant.is(Mutant::mean_over_padded_width);
    const Place width = padded ? 1U << (32 - __clz(r_.hidden - 1)) : r_.hidden;
    return epilogue::inverse_rms_of_mean(r_.one_over_hidden > 0
                                             ? epilogue::times(all, r_.one_over_hidden)
                                             : epilogue::over(all, static_cast<float>(width)),
                                         e_.eps);
  }

  /// By all threads: those of 16 groups next to each other find their scale together.
  __device__ void quantize_by_columns(const Row& row, const T* x, Place i, float inverse) const {
    const Place step = blockDim.x * static_cast<Place>(group);
    MIXCOMM_ROLLED
    for (Place begin = 0; begin < r_.hidden; begin += step) {
      const Place column = begin + threadIdx.x * static_cast<Place>(group);
      const bool filled = column < r_.hidden;
      float y[group] = {};
      if (filled) norm_group(row, x, column, inverse, y);
      float scale = 0;
      if (e_.quantize == Quantize::per_128_columns) {
        scale = epilogue::scale_of(largest_of<scale_columns / group>(largest_in(y)));
        if (filled && column % scale_columns == 0) put_scale(row, i, column / scale_columns, scale);
      } else {
        scale = *e_.fixed_scale;
      }
      if (filled) quantize(row, i, column, y, scale);
    }
  }
  /// By all threads.
  __device__ void quantize_by_token(const Row& row, T* x, Place i, float inverse, int turn) const {
    float largest = 0;
    each_group([&](Place column) {
      float y[group];
      norm_group(row, x, column, inverse, y);
      largest = epilogue::larger(largest, largest_in(y));
      store_floats(x, r_.hidden, column, y);
    });
    largest = largest_of<32>(largest);
    if (threadIdx.x % 32 == 0) shared_.largest[turn][threadIdx.x / 32] = largest;
    __syncthreads();
    largest =
        largest_of<32>(threadIdx.x % 32 < blockDim.x / 32 ? shared_.largest[turn][threadIdx.x % 32] : 0);
    const float scale = epilogue::scale_of(largest);
    if (threadIdx.x == 0) put_scale(row, i, 0, scale);
    each_group([&](Place column) {
      float y[group];
      load_group(x, column, y);
      quantize(row, i, column, y, scale);
    });
  }
  [[nodiscard]] __device__ static float largest_in(const float (&y)[group]) {
    float most = 0;
#pragma unroll
    for (int j = 0; j < static_cast<int>(group); ++j) most = epilogue::larger(most, y[j]);
    return most;
  }

  /// y of columns [column, column + 8) of a row whose sum is `x`, as it is rounded.
  __device__ void norm_group(const Row& row, const T* x, Place column, float inverse,
                             float (&y)[group]) const {
    load_group(x, column, y);
    if (!e_.norms()) return;
    float weight[group];
    load_group(weight_ != nullptr ? weight_ : static_cast<const T*>(e_.weight), column, weight);
#pragma unroll
    for (int j = 0; j < static_cast<int>(group); ++j)
      y[j] = rounded<T>(epilogue::normed(y[j], inverse, epilogue::factor(weight[j], e_.weight_plus_one)));
    if (a_.mutant.is(Mutant::norm_before_residual) && e_.adds && row.d == own()) {
      float late[group];
      load_group(residual(row), column, late);
      for (int j = 0; j < static_cast<int>(group); ++j) y[j] = rounded<T>(y[j] + late[j]);
    }
  }

  template <int threads>
  [[nodiscard]] __device__ static float largest_of(float mine) {
#pragma unroll
    for (int other = threads / 2; other > 0; other /= 2)
      mine = epilogue::larger(mine, __shfl_xor_sync(~0U, mine, other));
    return mine;
  }

  __device__ void quantize(const Row& row, Place i, Place column, const float (&y)[group],
                           float scale) const {
    Words<2> codes{};
#pragma unroll
    for (int j = 0; j < static_cast<int>(group); j += 2)
      codes.word[j / 4] |= fp8_pair(epilogue::over(y[j], scale), epilogue::over(y[j + 1], scale))
                           << (j % 4 * 8);
    UserTile<fp8_e4m3, 2>(out<fp8_e4m3>(row), r_.hidden, column).store(codes);
    if (!one_shot) UserTile<fp8_e4m3, 2>(image<fp8_e4m3>(i, r_.images.fp8), r_.hidden, column).store(codes);
  }
  __device__ void put_scale(const Row& row, Place i, Place which, float scale) const {
    scales(row)[which] = scale;
    if (!one_shot) image<float>(i, r_.images.scales)[which] = scale;
  }

  // two_shot: what comes of rows, to all who need them.

  /// Where a tile of a row's output lies, in the area for what comes out.
  [[nodiscard]] __device__ std::size_t to_put_out(const Row& row, Place tile) const {
    return wire_bytes((gathers ? packed(row) : row.r) * r_.out_deal.tiles + tile);
  }
  /// ... of what residual_out gets, where that is something else.
  [[nodiscard]] __device__ std::size_t to_keep(const Row& row, Place tile) const {
    const std::size_t rows =
        gathers ? b_.packed_size() : b_.packed_end(own()) - b_.start(Coordinates::packed, own());
    return wire_bytes(static_cast<Place>(rows) * r_.out_deal.tiles + row.r * r_.deal.tiles + tile);
  }
  [[nodiscard]] __device__ bool sends_kept() const {
    return e_.keeps && e_.changes() && a_.grid.tp.size > 1;
  }

  __device__ void send_out(Place first, Place rows) const {
    const auto row_of = [&](Place i) { return row_to_sum(first + i); };
    const Team& team = gathers ? a_.grid.world : a_.grid.tp;
    const int member = gathers ? me() : a_.grid.tp.member;
    std::byte* const area = a_.workspace.of(team.first) + out_offset();
    each_tile(r_.out_deal, rows, row_of, [&](const Row& row, const RowTile& t) {
      Data data{};
      if (t.there) {
        if (!e_.quantizes())
          data = load(image<const T>(t.i, 0), r_.hidden, t.tile);
        else if (t.tile < fp8_tiles())
          data = load(image<const fp8_e4m3>(t.i, r_.images.fp8), r_.hidden, t.tile);
        else
          data = load(image<const float>(t.i, r_.images.scales), scales(), t.tile - fp8_tiles());
      }
      send(t, {{area + to_put_out(row, t.tile), team.size, 1}, a_.workspace.stride * team.stride, member},
           data);
    });
    if (!sends_kept()) return;
    each_tile(r_.deal, rows, row_of, [&](const Row& row, const RowTile& t) {
      Data data{};
      if (t.there) data = load_row(residual_out(row), t.tile);
      send(t, way_of_kept(row, t.tile), data);
    });
  }
  [[nodiscard]] __device__ Way way_of_kept(const Row& row, Place tile) const {
    const Team& tp = a_.grid.tp;
    return {{a_.workspace.of(tp.first) + out_offset() + to_keep(row, tile), tp.size, 1},
            a_.workspace.stride * tp.stride,
            tp.member};
  }

  /// Takes what other ranks have made of rows.
  __device__ void close() {
    const Place of_mine = rows_of(own()) - mine_.size;
    take(
        r_.out_deal, gathers ? all_rows() - mine_.size : of_mine,
        [&](Place i) { return gathers ? row_of_all(i, true) : row_of_others(i); },
        [&](const Row& row, Place tile) { return to_put_out(row, tile); },
        [&](const Row& row, Place tile, const Data& data) {
          if (!e_.quantizes()) {
            store_row(out<T>(row), tile, data);
            if (e_.keeps && !e_.changes() && row.d == own()) store_row(residual_out(row), tile, data);
          } else if (tile < fp8_tiles()) {
            user(out<fp8_e4m3>(row), r_.hidden, tile).store(data);
          } else {
            user(scales(row), scales(), tile - fp8_tiles()).store(data);
          }
        });
    if (sends_kept())
      take(
          r_.deal, of_mine, [&](Place i) { return row_of_others(i); },
          [&](const Row& row, Place tile) { return to_keep(row, tile); },
          [&](const Row& row, Place tile, const Data& data) { store_row(residual_out(row), tile, data); });
  }

  /// Tiles of `count` rows that others sum, of several rows at a time.
  template <class RowOf, class At, class Put>
  __device__ void take(const RowDeal& deal, Place count, const RowOf& row_of, const At& at, const Put& put) {
    const std::byte* area = workspace(me()) + out_offset();
    const TeamPlace mine(deal);
    MIXCOMM_ROLLED
    for (Place from = 0; from < count; from += depth * deal.rows_step) {
      Row rows[depth];
      std::uint32_t none = 0;
#pragma unroll
      for (int k = 0; k < depth; ++k) {
        const Place i = from + k * deal.rows_step + mine.row;
        const bool has = mine.row < deal.rows_step && i < count;
        rows[k] = row_of(has ? i : 0);
        none |= has ? 0 : 1U << k;
      }
      MIXCOMM_ROLLED
      for (Place begin = 0; begin < deal.tiles; begin += deal.tiles_step) {
        const Place tile = begin + mine.tile;
        if (OverWire::any(lost_)) return;
        Received received[depth];
        const std::uint32_t not_mine = tile < deal.tiles ? none : ~0U;
        std::uint32_t here = not_mine;
        const bool come = receive(received, here, [&](int k) { return area + at(rows[k], tile); });
        if (!come && here != Base::template all_of<depth>) {
          std::uint64_t missing = 0;
#pragma unroll
          for (int k = 0; k < depth; ++k)
            if ((here >> k & 1U) == 0) missing |= missing_for(member_of(rows[k]));
          this->fail(FailureRecord::timeout, missing);
        }
        lost_ = !come;
        if (lost_) return;
#pragma unroll
        for (int k = 0; k < depth; ++k)
          if ((not_mine >> k & 1U) == 0) put(rows[k], tile, OverWire::data(received[k]));
      }
    }
  }
  /// The member that sums a row.
  [[nodiscard]] __device__ Place member_of(const Row& row) const {
    return static_cast<Place>(row.d * a_.grid.tp.size) + owner(row);
  }

  const RowArguments& r_;
  const EpilogueArguments& e_;
  Shared& shared_;
  Data last_{};  ///< held: of the last tile that was summed
  T* weight_;    ///< the norm's, in shared memory if it fits
  std::byte* images_;
  Share mine_{};       ///< of my block's rows: those that I sum
  bool lost_ = false;  ///< something has not come to this thread: it sends nothing any more
};

}  // namespace mixcomm::cuda
