// The context of operations with an epilogue: whole rows are summed, normed and sent by one lane of one rank.
#pragma once

#include "cuda/messages.cuh"
#include "cuda/packs.cuh"
#include "cuda/row_arguments.hpp"
#include "epilogue/arithmetic.hpp"

namespace mixcomm::cuda {

/// One kernel serves all operations, algorithms and epilogues of a dtype over a wire: which it is are values,
/// the same for all threads.
///
/// A pass is: my input to who sums it; then, for as many rows at a time as there is room for images, sums
/// into images, the norm of those, and (two_shot) what came of it to all who need it; then what others have
/// normed. Teams of threads of a tile deal the tiles of all rows among them, as tiles of operations without
/// an epilogue; the norm is done by teams of 128 threads, a row each.
///
/// What of a block's rows is whose is the same as on the CPU: in one_shot all that a rank needs, in two_shot
/// its share of its own DP group's block, since a residual is on the ranks of that group alone. In one_shot
/// the other groups need it: rank t of the group sends them row r's, where r mod tp is t, as one more source.
///
/// Where the output lies over the input, or residual_out over the residual: all that the pass sends is read
/// before anything is written, and of what is summed the thread that writes residual_out has read the
/// residual, and `out` is written when the row is summed.
template <class T, template <class> class WireOf>
class RowContext : public Messages<WireOf<T>> {
  using OverWire = WireOf<T>;
  using Base = Messages<OverWire>;
  using Base::a_;
  using Base::b_;
  using Base::greets_;
  using Base::hello;
  using Base::in_area;
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

  static constexpr int batch = OverWire::batch;
  static constexpr int depth = OverWire::depth_two_shot;
  static constexpr Place group = epilogue::group;
  static constexpr int row_teams = most_row_threads / row_team;

 public:
  /// What the teams of a lane share of a row, in shared memory.
  struct Shared {
    float squares[2][row_teams][row_team];  ///< of rows normed in turns
    float largest[row_teams][row_team / 32];
  };

  __device__ RowContext(const RowArguments& a, const LaneBlocks& blocks, Shared& shared, std::byte* memory)
      : Base(a.call, blocks),
        r_(a),
        e_(a.epilogue),
        shared_(shared),
        weight_(static_cast<const T*>(a.epilogue.weight)),
        images_(memory + a.weight_bytes) {
    if (a.weight_bytes > 0) weight_ = reinterpret_cast<const T*>(memory);
  }

  /// What can be known before the previous kernel is complete.
  __device__ void prepare() {
    greets_ = !r_.one_shot;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) greets_ |= b_.size(d) == 0;
    if (a_.mutant.is(Mutant::no_greeting)) greets_ = false;
    tiles_ = divide_up(r_.hidden, OverWire::elements);
    out_tiles_ = e_.quantizes() ? fp8_tiles() + divide_up(scales(), ScaleWire::elements) : tiles_;
    mine_ = share_of_mine();
    extent_ = 0;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) {
      const auto room = static_cast<Place>(b_.packed_end(d) - b_.start(Coordinates::packed, d));
      const Place summed = r_.one_shot ? room : divide_up(room, a_.grid.tp.size);
      if (r_.one_shot && r_.gathers)
        extent_ += summed;
      else if (summed > extent_)
        extent_ = summed;
    }
    if (r_.images_in_workspace) images_ = workspace(me()) + a_.workspace.area(Area::staged_in(), blockIdx.x);
  }

  /// One pass; false if the communicator has failed. All threads return the same.
  __device__ bool pass() {
    lost_ = lost_ || state_.failed != 0;
    if (!lost_) {
      if (greets_ && threadIdx.x < members()) ptx::store_packet(hello(threadIdx.x, me()), 0, number());
      send();
      if (r_.one_shot && r_.gathers && e_.adds) send_residual();
    }
    if (passes_ == 0 && r_.weight_bytes > 0) fetch_weight();
    // All have looked at the state, and read what they send.
    if (__syncthreads_or(lost_)) return false;
    if (passes_ + 1 == a_.passes && !r_.local) keep(number(), this->barriers());
    const Place count = rows_to_sum();
    for (Place first = 0; first < count; first += r_.rows_at_once) {
      const Place rows = count - first < r_.rows_at_once ? count - first : r_.rows_at_once;
      sum(first, rows);
      // A row that has not come is not sent on.
      if (__syncthreads_or(lost_)) return false;
      if (e_.changes()) {
        norm(first, rows);
        __syncthreads();
      }
      if (!r_.one_shot && members() > 1) send_out(first, rows);
      if (first + rows < count) __syncthreads();  // images are read
    }
    if (!r_.one_shot) close();
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
  /// A tile of a row, or none, for a team that only keeps step.
  struct RowTile {
    Place row;
    Place tile;
    bool there;
  };

  [[nodiscard]] __device__ int own() const { return a_.grid.dp.member; }
  [[nodiscard]] __device__ Place rows_of(int d) const { return static_cast<Place>(b_.size(d)); }
  [[nodiscard]] __device__ Place packed(const Row& row) const {
    return static_cast<Place>(b_.start(Coordinates::packed, row.d)) + row.r;
  }
  /// Those rows of my block that I sum: `first`, and each `step` behind it.
  struct Share {
    Place first;
    Place step;
    Place size;
  };
  /// two_shot: whose row of its block a row is, by member of the TP team. Rows are dealt one by one, from one
  /// lane and pass to the next, so that ranks have equal work where lanes have a row each.
  [[nodiscard]] __device__ Place owner(const Row& row) const {
    const auto tp = static_cast<Place>(a_.grid.tp.size);
    return (static_cast<Place>(b_.start(Coordinates::one_block, row.d)) + row.r) % tp;
  }
  [[nodiscard]] __device__ Share share_of_mine() const {
    const Place rows = rows_of(own());
    if (r_.one_shot) return {0, 1, rows};
    const auto tp = static_cast<Place>(a_.grid.tp.size);
    const Place begin = owner({own(), 0});
    const Place me_in_tp = static_cast<Place>(a_.grid.tp.member);
    const Place first = me_in_tp >= begin ? me_in_tp - begin : me_in_tp + tp - begin;
    return {first, tp, rows > first ? divide_up(rows - first, tp) : 0};
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
    const Place others = mine_.step - 1;
    const Place turn = i / others;
    const Place place = i - turn * others;
    return {own(), turn * mine_.step + place + (place < mine_.first ? 0 : 1)};
  }

  [[nodiscard]] __device__ Place rows_to_sum() const {
    return r_.one_shot && r_.gathers ? all_rows() : mine_.size;
  }
  [[nodiscard]] __device__ Row row_to_sum(Place i) const {
    return r_.one_shot && r_.gathers ? row_of_all(i, false) : Row{own(), mine_.first + i * mine_.step};
  }

  // Tiles of rows.

  [[nodiscard]] __device__ static Place team() { return threadIdx.x / OverWire::threads; }
  [[nodiscard]] __device__ static Place teams() { return blockDim.x / OverWire::threads; }
  /// f(tile) for the tiles of this thread's team, of `rows` rows of `tiles` tiles; the teams of a warp go in
  /// step.
  template <class F>
  __device__ void each_tile(Place rows, Place tiles, const F& f) const {
    const Place count = rows * tiles;
    MIXCOMM_ROLLED
    for (Place j = team(); OverWire::any(j < count); j += teams()) {
      const bool there = j < count;
      const Place row = there ? j / tiles : 0;
      f(RowTile{row, there ? j - row * tiles : 0, there});
    }
  }
  [[nodiscard]] __device__ static std::size_t wire_bytes(std::size_t tiles) {
    return tiles * OverWire::bytes_of(OverWire::elements);
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
    return b_.start(r_.gathers ? Coordinates::all_blocks : Coordinates::one_block, row.d) + row.r;
  }
  [[nodiscard]] __device__ const T* in(const Row& row) const {
    return static_cast<const T*>(a_.in) +
           (b_.start(r_.gathers ? Coordinates::one_block : Coordinates::all_blocks, row.d) + row.r) *
               r_.hidden;
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

  /// Where, in the first half of a workspace, a tile of row i of those that its owner sums lies, from
  /// `source`.
  [[nodiscard]] __device__ std::size_t to_sum(int source, Place i, Place tile) const {
    return wire_bytes((static_cast<std::size_t>(source) * extent_ + i) * tiles_ + tile);
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
    const int source = r_.gathers ? a_.grid.tp.member : my_source();
    if (r_.one_shot) {
      const Team team = r_.gathers ? a_.grid.world : a_.grid.over_tp(row.d).inner;
      const int less = r_.gathers || row.d == own() ? 1 : 0;
      return {
          {a_.workspace.of(team.first) + in_offset() + to_sum(source, r_.gathers ? packed(row) : row.r, tile),
           team.size, less},
          a_.workspace.stride * team.stride,
          r_.gathers ? me() : a_.grid.tp.member};
    }
    const int rank = a_.grid.over_tp(row.d).inner.rank(static_cast<int>(owner(row)));
    const Place slot = row.r / static_cast<Place>(a_.grid.tp.size);
    return {{a_.workspace.of(rank) + in_offset() + to_sum(source, slot, tile), 1, 0}, 0, 0};
  }
  __device__ void send(const RowTile& tile, const Way& way, const Data& data) const {
    send_to(Tile{0, 0, 0, tile.there}, way.route, way.step, way.member, data);
  }

  __device__ void send() const {
    const bool without = !r_.one_shot;
    const Place skipped = without ? mine_.size : 0;
    const Place rows = (r_.gathers ? rows_of(own()) : all_rows()) - skipped;
    each_tile(rows, tiles_, [&](const RowTile& t) {
      const Row row = !r_.gathers ? row_of_all(t.row, without)
                      : without   ? row_of_others(t.row)
                                  : Row{own(), t.row};
      Data data{};
      if (t.there) data = load(in(row), r_.hidden, t.tile);
      send(t, way_of(row, t.tile), data);
    });
  }

  /// One source more of my group's rows, for the other groups: my share of the residual.
  __device__ void send_residual() const {
    const Team& world = a_.grid.world;
    const auto tp = static_cast<Place>(a_.grid.tp.size);
    const auto first = static_cast<Place>(a_.grid.tp.member);
    const Place rows = rows_of(own());
    if (world.size == a_.grid.tp.size) return;
    each_tile(rows > first ? divide_up(rows - first, tp) : 0, tiles_, [&](const RowTile& t) {
      const Row row{own(), first + t.row * tp};
      Data data{};
      if (t.there) data = load(residual(row), r_.hidden, t.tile);
      const Route route{
          a_.workspace.of(world.first) + in_offset() + to_sum(a_.grid.tp.size, packed(row), t.tile),
          world.size, a_.grid.tp.size};
      // From the next group's first rank on, to all but mine.
      send(t, {route, a_.workspace.stride * world.stride, (own() + 1) * a_.grid.tp.size - 1}, data);
    });
  }

  // Sums.

  /// The rounded sums of rows [first, first + rows) of those that I sum, to their images.
  __device__ void sum(Place first, Place rows) {
    each_tile(rows, tiles_, [&](const RowTile& t) {
      if (lost_) return;
      const Row row = row_to_sum(first + t.row);
      const Data x = sum_of(row, first + t.row, t);
      if (!t.there || lost_) return;
      if (e_.keeps && row.d == own()) user(residual_out(row), r_.hidden, t.tile).store(x);
      if (!e_.changes()) user(out<T>(row), r_.hidden, t.tile).store(x);
      if (e_.changes() || !r_.one_shot) user(image<T>(t.row, 0), r_.hidden, t.tile).store(x);
    });
  }

  [[nodiscard]] __device__ Data sum_of(const Row& row, Place i, const RowTile& t) {
    const bool in_own_block = row.d == own();
    const SumOrder order = r_.gathers ? a_.grid.over_tp(row.d) : a_.grid.over_world();
    const int mine = !r_.gathers ? my_source() : in_own_block ? a_.grid.tp.member : nobody;
    const int summed = order.size();
    const bool travelled = e_.adds && !in_own_block;  // the residual
    const int sources = summed + (travelled ? 1 : 0);
    Data mine_data{};
    Data residual_data{};
    if (mine != nobody && t.there) mine_data = load(in(row), r_.hidden, t.tile);
    if (e_.adds && in_own_block && t.there) residual_data = load(residual(row), r_.hidden, t.tile);
    const Place slot = r_.one_shot && r_.gathers ? packed(row) : i;
    const std::byte* from = workspace(me()) + in_offset() + to_sum(0, slot, t.tile);
    const std::size_t stride = to_sum(1, 0, 0);
    OrderedSum<T, Data::size, true, 2> sum(order.inner.size, summed);
    Data only = mine_data;
    for (int first = 0; first < sources;) {
      const int added = sum.next(first, batch);
      const bool residual_too = travelled && first + added == summed && added < batch;
      const int count = added + (residual_too ? 1 : 0);
      std::uint32_t here = t.there ? ~0U << count : ~0U;  // nothing is to come beyond the last source
      if (mine >= first && mine < first + count) here |= 1U << (mine - first);
      Received received[batch];
      if (!receive(received, here, [&](int k) { return from + static_cast<std::size_t>(k) * stride; })) {
        if (here != Base::template all_of<batch>)
          this->fail(FailureRecord::timeout, missing_of(row, order, slot, t));
        lost_ = true;
        return only;
      }
      const auto source = [&](int k) { return first + k == mine ? mine_data : OverWire::data(received[k]); };
#pragma unroll
      for (int k = 0; k < batch; ++k)
        if (residual_too && k == added) residual_data = OverWire::data(received[k]);
      if (first == 0) only = source(0);
      if (added > 0) sum.template add<batch>(first, added, source);
      first += count;
      from += static_cast<std::size_t>(count) * stride;
    }
    if (e_.adds && !a_.mutant.is(Mutant::norm_before_residual)) sum.add_last(residual_data);
    if (e_.adds && a_.mutant.is(Mutant::residual_of_each_rank)) sum.add_last(residual_data);
    // One source is copied bit by bit.
    return summed == 1 && !e_.adds ? only : sum.rounded();
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

  // The norm, and FP8.

  /// To shared memory, while data are on their way.
  __device__ void fetch_weight() const {
    constexpr Place pack = 16 / sizeof(T);
    const auto* from = static_cast<const T*>(e_.weight);
    std::byte* const to = images_ - r_.weight_bytes;
    MIXCOMM_ROLLED
    for (Place i = threadIdx.x; i * pack < r_.hidden; i += blockDim.x)
      store_pack(to + i * 16, UserTile<const T, 4>(from, r_.hidden, i * pack).load().word);
  }

  /// Columns [column, column + 8) of a row; 0 behind its end.
  __device__ void load_group(const T* row, Place column, float (&value)[group]) const {
    load_floats(row, r_.hidden, column, value);
  }

  /// What is to be handed out of rows [first, first + rows) of those that I sum, in their images and in my
  /// output. All threads call it. A team of 128 sums the squares of a row; what follows is for as many teams
  /// as there are for each row.
  __device__ void norm(Place first, Place rows) const {
    const Place at_once = blockDim.x / row_team;
    int turn = 0;
    MIXCOMM_ROLLED
    for (Place from = 0; from < rows; from += at_once, turn ^= 1) {
      const Place count = rows - from < at_once ? rows - from : at_once;
      const Place split = at_once / count;
      const Place team = threadIdx.x / row_team;
      if (e_.norms()) {
        if (team < count) sum_squares(image<T>(from + team, 0), shared_.squares[turn][team]);
        __syncthreads();
      }
      const Place which = team / split;
      const bool there = which < count;
      const Place i = from + (there ? which : 0);
      const Place column = (team % split * row_team + threadIdx.x % row_team) * group;
      finish({row_to_sum(first + i), i, column, split * row_team * group, there},
             shared_.squares[turn][there ? which : 0], which * split);
    }
  }

  /// By a team, each thread its accumulator.
  __device__ void sum_squares(const T* x, float (&squares)[row_team]) const {
    float sum = 0;
    MIXCOMM_ROLLED
    for (Place column = threadIdx.x % row_team * group; column < r_.hidden; column += row_team * group) {
      float value[group];
      load_group(x, column, value);
      sum = epilogue::plus(sum, epilogue::squares_of(value));
    }
    squares[threadIdx.x % row_team] = sum;
  }

  /// A thread's part of a row: 8 columns from `column` on, and of each `step`.
  struct Part {
    Row row;
    Place i;  ///< of the images
    Place column;
    Place step;
    bool there;
  };

  /// `first_team`: of those that have the row.
  __device__ void finish(const Part& part, const float (&squares)[row_team], Place first_team) const {
    T* const x = image<T>(part.i, 0);
    float inverse = 1;
    if (e_.norms()) {
      const Place width =
          a_.mutant.is(Mutant::mean_over_padded_width) ? 1U << (32 - __clz(r_.hidden - 1)) : r_.hidden;
      inverse = epilogue::inverse_rms(folded(squares), width, e_.eps);
    }
    const bool per_token = e_.quantize == Quantize::per_token;
    float largest = 0;
    const Place turns = divide_up(r_.hidden, part.step);
    MIXCOMM_ROLLED
    for (Place n = 0; n < turns; ++n) {  // as many for all threads, which look for the largest together
      const Place column = part.column + n * part.step;
      const bool filled = part.there && column < r_.hidden;
      float y[group] = {};
      if (filled) {
        load_group(x, column, y);
        if (e_.norms()) norm_group(y, part.row, column, inverse);
      }
      if (!e_.quantizes()) {
        if (filled) store_floats(out<T>(part.row), r_.hidden, column, y);
        if (filled && !r_.one_shot) store_floats(x, r_.hidden, column, y);
        continue;
      }
      float most = 0;
#pragma unroll
      for (int j = 0; j < static_cast<int>(group); ++j) most = epilogue::larger(most, y[j]);
      if (per_token) {
        largest = epilogue::larger(largest, most);
        if (filled) store_floats(x, r_.hidden, column, y);
        continue;
      }
      float scale = 0;
      if (e_.quantize == Quantize::per_128_columns) {
        scale = epilogue::scale_of(largest_of<scale_columns / group>(most));
        if (filled && column % scale_columns == 0) put_scale(part, column / scale_columns, scale);
      } else {
        scale = *e_.fixed_scale;
      }
      if (filled) quantize(part, column, y, scale);
    }
    if (!per_token) return;
    largest = largest_of<32>(largest);
    const Place warp = threadIdx.x % row_team / 32;
    if (threadIdx.x % 32 == 0) shared_.largest[threadIdx.x / row_team][warp] = largest;
    __syncthreads();
    const Place teams_of_row = part.step / (row_team * static_cast<Place>(group));
    MIXCOMM_ROLLED
    for (Place team = 0; part.there && team < teams_of_row; ++team)
#pragma unroll
      for (int w = 0; w < row_team / 32; ++w)
        largest = epilogue::larger(largest, shared_.largest[first_team + team][w]);
    const float scale = epilogue::scale_of(largest);
    if (part.there && part.column == 0) put_scale(part, 0, scale);
    MIXCOMM_ROLLED
    for (Place column = part.column; part.there && column < r_.hidden; column += part.step) {
      float y[group];
      load_group(x, column, y);
      quantize(part, column, y, scale);
    }
    __syncthreads();  // the largest are read
  }

  /// y of columns [column, column + 8), as it is rounded.
  __device__ void norm_group(float (&y)[group], const Row& row, Place column, float inverse) const {
    float weight[group];
    load_group(weight_, column, weight);
#pragma unroll
    for (int j = 0; j < static_cast<int>(group); ++j)
      y[j] = rounded<T>(epilogue::normed(y[j], inverse, epilogue::factor(weight[j], e_.weight_plus_one)));
    if (a_.mutant.is(Mutant::norm_before_residual) && e_.adds && row.d == own()) {
      float late[group];
      load_group(residual(row), column, late);
      for (int j = 0; j < static_cast<int>(group); ++j) y[j] = rounded<T>(y[j] + late[j]);
    }
  }

  /// The accumulators, folded in half until one is left. The same for all threads of the team.
  [[nodiscard]] __device__ static float folded(const float (&squares)[row_team]) {
    const Place lane = threadIdx.x % 32;
    float sum = epilogue::plus(epilogue::plus(squares[lane], squares[lane + 64]),
                               epilogue::plus(squares[lane + 32], squares[lane + 96]));
#pragma unroll
    for (int other = 16; other > 0; other /= 2) sum = epilogue::plus(sum, __shfl_xor_sync(~0U, sum, other));
    return sum;
  }
  template <int threads>
  [[nodiscard]] __device__ static float largest_of(float mine) {
#pragma unroll
    for (int other = threads / 2; other > 0; other /= 2)
      mine = epilogue::larger(mine, __shfl_xor_sync(~0U, mine, other));
    return mine;
  }

  __device__ void quantize(const Part& part, Place column, const float (&y)[group], float scale) const {
    Words<2> codes{};
#pragma unroll
    for (int j = 0; j < static_cast<int>(group); j += 2)
      codes.word[j / 4] |= fp8_pair(epilogue::over(y[j], scale), epilogue::over(y[j + 1], scale))
                           << (j % 4 * 8);
    UserTile<fp8_e4m3, 2>(out<fp8_e4m3>(part.row), r_.hidden, column).store(codes);
    if (!r_.one_shot)
      UserTile<fp8_e4m3, 2>(image<fp8_e4m3>(part.i, r_.images.fp8), r_.hidden, column).store(codes);
  }
  __device__ void put_scale(const Part& part, Place which, float scale) const {
    scales(part.row)[which] = scale;
    if (!r_.one_shot) image<float>(part.i, r_.images.scales)[which] = scale;
  }

  // two_shot: what comes of rows, to all who need them.

  /// Where a tile of a row's output lies, in the area for what comes out.
  [[nodiscard]] __device__ std::size_t to_put_out(const Row& row, Place tile) const {
    const Place slot = r_.gathers ? packed(row) : row.r;
    return wire_bytes(static_cast<std::size_t>(slot) * out_tiles_ + tile);
  }
  /// ... of what residual_out gets, where that is something else.
  [[nodiscard]] __device__ std::size_t to_keep(const Row& row, Place tile) const {
    const std::size_t rows =
        r_.gathers ? b_.packed_size() : b_.packed_end(own()) - b_.start(Coordinates::packed, own());
    return wire_bytes(rows * out_tiles_ + static_cast<std::size_t>(row.r) * tiles_ + tile);
  }
  [[nodiscard]] __device__ bool sends_kept() const {
    return e_.keeps && e_.changes() && a_.grid.tp.size > 1;
  }

  __device__ void send_out(Place first, Place rows) const {
    const Team& team = r_.gathers ? a_.grid.world : a_.grid.tp;
    const int member = r_.gathers ? me() : a_.grid.tp.member;
    std::byte* const area = a_.workspace.of(team.first) + out_offset();
    each_tile(rows, out_tiles_, [&](const RowTile& t) {
      const Row row = row_to_sum(first + t.row);
      Data data{};
      if (t.there) {
        if (!e_.quantizes())
          data = load(image<const T>(t.row, 0), r_.hidden, t.tile);
        else if (t.tile < fp8_tiles())
          data = load(image<const fp8_e4m3>(t.row, r_.images.fp8), r_.hidden, t.tile);
        else
          data = load(image<const float>(t.row, r_.images.scales), scales(), t.tile - fp8_tiles());
      }
      send(t, {{area + to_put_out(row, t.tile), team.size, 1}, a_.workspace.stride * team.stride, member},
           data);
    });
    if (!sends_kept()) return;
    const Team& tp = a_.grid.tp;
    each_tile(rows, tiles_, [&](const RowTile& t) {
      const Row row = row_to_sum(first + t.row);
      Data data{};
      if (t.there) data = load(static_cast<const T*>(residual_out(row)), r_.hidden, t.tile);
      send(t,
           {{a_.workspace.of(tp.first) + out_offset() + to_keep(row, t.tile), tp.size, 1},
            a_.workspace.stride * tp.stride,
            tp.member},
           data);
    });
  }

  /// Takes what other ranks have made of rows.
  __device__ void close() {
    const Place of_mine = rows_of(own()) - mine_.size;
    take(
        r_.gathers ? all_rows() - mine_.size : of_mine, out_tiles_, r_.gathers,
        [&](const Row& row, Place tile) { return to_put_out(row, tile); },
        [&](const Row& row, Place tile, const Data& data) {
          if (!e_.quantizes()) {
            user(out<T>(row), r_.hidden, tile).store(data);
            if (e_.keeps && !e_.changes() && row.d == own())
              user(residual_out(row), r_.hidden, tile).store(data);
          } else if (tile < fp8_tiles()) {
            user(out<fp8_e4m3>(row), r_.hidden, tile).store(data);
          } else {
            user(scales(row), scales(), tile - fp8_tiles()).store(data);
          }
        });
    if (sends_kept())
      take(
          of_mine, tiles_, false, [&](const Row& row, Place tile) { return to_keep(row, tile); },
          [&](const Row& row, Place tile, const Data& data) {
            user(residual_out(row), r_.hidden, tile).store(data);
          });
  }

  /// Tiles of `rows` rows that others sum: of all blocks, or of mine.
  template <class At, class Put>
  __device__ void take(Place rows, Place tiles, bool of_all, const At& at, const Put& put) {
    const std::byte* area = workspace(me()) + out_offset();
    each_tile(rows, tiles, [&](const RowTile& t) {
      if (lost_) return;
      const Row row = of_all ? row_of_all(t.row, true) : row_of_others(t.row);
      Received received[1];
      std::uint32_t here = t.there ? 0 : 1;
      if (!receive(received, here, [&](int) { return area + at(row, t.tile); })) {
        if (here == 0) this->fail(FailureRecord::timeout, missing_for(member_of(row)));
        lost_ = true;
        return;
      }
      if (t.there) put(row, t.tile, OverWire::data(received[0]));
    });
  }
  /// The member that sums a row.
  [[nodiscard]] __device__ Place member_of(const Row& row) const {
    return static_cast<Place>(row.d * a_.grid.tp.size) + owner(row);
  }

  const RowArguments& r_;
  const EpilogueArguments& e_;
  Shared& shared_;
  const T* weight_;
  std::byte* images_;
  Share mine_{};         ///< of my block's rows: those that I sum
  Place tiles_ = 0;      ///< of a row
  Place out_tiles_ = 0;  ///< of what comes out of it
  Place extent_ = 0;     ///< rows from one source's to the next one's
  bool lost_ = false;    ///< something has not come to this thread: it sends nothing any more
};

}  // namespace mixcomm::cuda
