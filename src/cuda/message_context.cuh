// The context of data that says itself whether it has come, in packets or lines. Nothing else is waited for,
// and no buffer of the caller's is touched by another rank.
#pragma once

#include <type_traits>

#include "algorithms/one_shot.hpp"
#include "algorithms/two_shot.hpp"
#include "cuda/kernels.hpp"
#include "cuda/messages.cuh"

namespace mixcomm::cuda {

/// A rank sends nothing to itself: who sums takes its own part from the caller's buffer. Where the output
/// lies over the input, no thread may overwrite what another one has yet to send. In one_shot the thread that
/// sums a tile of the rank's own block is the one that has sent it: both deal that block from its begin on.
/// In two_shot the thread that stores a sum of the rank's own share is the only one that reads it.
template <class T, Body body, bool one_shot, class OverWire>
class MessageContext : public Messages<OverWire> {
  using Base = Messages<OverWire>;
  using Base::a_;
  using Base::arrived;
  using Base::await_greeting;
  using Base::b_;
  using Base::bytes_of;
  using Base::greets_;
  using Base::in_area;
  using Base::keep_last;
  using Base::leave;
  using Base::look_for_greeting;
  using Base::me;
  using Base::members;
  using Base::missing_for;
  using Base::missing_of;
  using Base::my_source;
  using Base::number;
  using Base::out_offset;
  using Base::parity;
  using Base::passes_;
  using Base::receive;
  using Base::send_to;
  using Base::waited;
  using Base::workspace;
  using Route = typename Base::Route;
  static constexpr bool gathers = body == Body::gather;
  static constexpr int batch = OverWire::batch;
  /// Where sums wait for their neighbours: of two batches of one group one does.
  static constexpr int places = gathers && 2 * batch >= most_ranks ? 1 : 2;
  static constexpr int depth = one_shot ? OverWire::depth_one_shot : OverWire::depth_two_shot;
  using Data = typename OverWire::Data;
  using Received = typename OverWire::Received;
  using LaneTiles = Tiles<OverWire::elements, OverWire::threads, one_shot && gathers ? 2 : 1>;
  using TwoRuns = Tiles<OverWire::elements, OverWire::threads, 2>;
  using UserInput = typename OverWire::template User<const T>;
  using UserOutput = typename OverWire::template User<T>;

 public:
  using Tile = cuda::Tile;

  /// Where the data of a sum lie in my workspace: source s's are `stride` bytes behind those of source s - 1.
  struct Input {
    const std::byte* first;
    Place stride;
  };
  struct Output {};

  using Base::Base;

  /// What can be known of a pass before the previous kernel is complete. A call of few bytes is one chain of
  /// latencies, and whatever is looked up on the way of the data makes it longer.
  __device__ void prepare() {
    greets_ = !one_shot;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) greets_ |= b_.size(d) == 0;
    if (a_.mutant.is(Mutant::no_greeting)) greets_ = false;
    extent_ = static_cast<Place>(extent_of(one_shot, body, b_, members()));
    if constexpr (one_shot) {
      sums_ = {b_, gathers ? from_own_block() : Runs(b_.block(a_.grid.dp.member))};
      next_ = TwoRuns(b_, to_send()).begin();
    } else {
      sums_ = {b_, my_share()};
      next_ = TwoRuns(b_, Runs::around(gathers ? own_block() : b_.everything(), my_share())).begin();
    }
    if constexpr (!OverWire::is_wide) {
      if (!any_left()) return;
      first_.input = input(*next_);
      first_.route = route_of(*next_);
    }
  }

  /// Starts to load the first tiles of my input.
  __device__ void prefetch() {
    if constexpr (OverWire::is_wide) return load_batch<0>();
    if constexpr (!OverWire::is_wide) {
      mine_[0].tile = *next_;
      if (mine_[0].tile.there) mine_[0].data = first_.input.load();
      ++next_;
      load_batch<1>();
    }
  }

  __device__ void end_pass() {
    if (one_shot && greets_) await_greeting(look_for_greeting());
    waited();
    ++passes_;
  }

  /// My input to every rank that sums it.
  __device__ Input publish() requires(one_shot) {
    send();
    keep_last();
    return {in_area(me()), static_cast<Place>(bytes_of(extent_))};
  }
  __device__ void retract(const Input&) requires(one_shot) {}  // all have copies of their own

  /// Sends every other rank what it sums of my input: its share.
  __device__ Input share() requires(!one_shot) {
    send();
    keep_last();
    return {in_area(me()) - bytes_of(extent_) * me(), static_cast<Place>(bytes_of(extent_))};
  }

  __device__ Output open() requires(!one_shot) { return {}; }
  __device__ void barrier() requires(!one_shot) {}

  /// Takes what the other ranks have summed of my output.
  __device__ void close(const Output&) requires(!one_shot) {
    const ptx::Packet greeting = look_for_greeting();  // under way while the sums are waited for
    const std::byte* area = workspace(me()) + out_offset();
    const TwoRuns all(b_, Runs::around(gathers ? b_.everything() : own_block(), my_share()));
    for (auto next = all.begin(); next != all.end();) {
      Tile tile[depth];
      std::uint32_t here = 0;
#pragma unroll
      for (int k = 0; k < depth; ++k) {
        tile[k] = *next;
        here |= tile[k].there ? 0 : 1U << k;
        ++next;
      }
      Received received[depth];
      if (!receive(received, here, [&](int k) { return area + bytes_of(tile[k].packed); })) {
        if (here == Base::template all_of<depth>) ptx::leave();
        leave(missing_for(tile[0].packed / extent_));
      }
#pragma unroll
      for (int k = 0; k < depth; ++k)
        if (tile[k].there) output(tile[k]).store(OverWire::data(received[k]));
    }
    if (greets_) await_greeting(greeting);
  }

  /// `run` is what this context's body sums, for which prepare() has made ready.
  [[nodiscard]] __device__ const LaneTiles& tiles(Range /*run*/) const {
    return sums_;
  }

  __device__ Data load_sum(const SumOrder& order, const Input& in, const Tile& tile) {
    // Where it will go, and what this rank itself has of it, is looked up while the rest is on its way.
    if constexpr (one_shot) output_ = output(tile);
    const int own = own_source(tile);
    Data mine{};
    if (own != nobody && tile.there) mine = input(tile).load();
    const std::byte* from = in.first + bytes_of(one_shot && !gathers ? tile.begin : tile.packed);
    const int sources = order.size();
    constexpr bool parks = parks_sums(body, OverWire::kind, batch);
    OrderedSum<T, Data::size, !gathers, places, parks> sum(order.inner.size, sources);
    for (int first = 0; first < sources;) {
      const int count = sum.next(first, batch);
      std::uint32_t here = tile.there ? ~0U << count : ~0U;  // nothing is to come beyond the last source
      if (own >= first && own < first + count) here |= 1U << (own - first);
      Received received[batch];
      if (!receive(received, here, [&](int k) { return from + static_cast<Place>(k) * in.stride; })) {
        if (here == Base::template all_of<batch>) ptx::leave();
        leave(missing_of(order, first, count, from, in.stride, own));
      }
      const auto source = [&](int k) {
        return first + k == own ? OverWire::picked(mine, tile.begin) : OverWire::data(received[k]);
      };
      if (sources == 1) return source(0);  // one source is copied bit by bit
      sum.template add<batch>(first, count, source);
      first += count;
      from += static_cast<Place>(count) * in.stride;
    }
    return sum.rounded();
  }

  __device__ void store(const Tile& tile, const Data& sum) const requires(one_shot) {
    if (tile.there) output_.store(sum);
  }

  __device__ void store_all(const Team& team, const Output&, const Tile& tile, const Data& sum) const
      requires(!one_shot) {
    const bool for_me = gathers || tile.block == a_.grid.dp.member;
    std::byte* to = a_.workspace.of(team.first) + out_offset() + bytes_of(tile.packed);
    send_to(tile, {to, team.size, for_me ? 1 : 0}, a_.workspace.stride * team.stride, team.member, sum);
    if (for_me && tile.there) output(tile).store(sum);
  }

 private:
  static constexpr int nobody = -1;

  [[nodiscard]] __device__ UserInput input(const Tile& tile) const {
    return {Base::template input_block<T, body>(tile.block), b_.size(tile.block), tile.begin};
  }
  [[nodiscard]] __device__ UserOutput output(const Tile& tile) const {
    return {Base::template output_block<T, body>(tile.block), b_.size(tile.block), tile.begin};
  }
  /// two_shot: what I sum.
  [[nodiscard]] __device__ Range my_share() const {
    return two_shot_sums(a_.grid, b_);
  }
  /// My DP rank's block, with what rounds it up.
  [[nodiscard]] __device__ Range own_block() const {
    const int d = a_.grid.dp.member;
    const std::size_t begin = b_.start(Coordinates::packed, d);
    return {begin, b_.packed_end(d) - begin};
  }
  /// All blocks, from mine on: so not all ranks send to the same one at the same time.
  [[nodiscard]] __device__ Runs from_own_block() const {
    const std::size_t begin = own_block().begin;
    return {Range{begin, b_.packed_size() - begin}, Range{0, begin}};
  }
  /// one_shot: what others need of my input.
  [[nodiscard]] __device__ Runs to_send() const {
    if (gathers) return own_block();
    return a_.grid.tp.size > 1 ? from_own_block() : Runs::around(b_.everything(), own_block());
  }

  /// The number, among the sources of a tile's sum, of this rank itself, whose data have not travelled; or
  /// `nobody`, if this rank is no source.
  [[nodiscard]] __device__ int own_source(const Tile& tile) const {
    if constexpr (!gathers) return my_source();
    return tile.block == a_.grid.dp.member ? a_.grid.tp.member : nobody;
  }

  [[nodiscard]] __device__ Route route_of(const Tile& tile) const {
    const std::size_t area = a_.workspace.area(Area::in(OverWire::kind, 0), blockIdx.x);
    const std::size_t stretch = bytes_of(extent_) * (gathers ? a_.grid.tp.member : my_source());
    if constexpr (one_shot) {
      const Team team = gathers ? a_.grid.world : a_.grid.over_tp(tile.block).inner;
      return {a_.workspace.of(team.first) + area + stretch + bytes_of(gathers ? tile.packed : tile.begin),
              team.size, gathers || tile.block == a_.grid.dp.member ? 1 : 0};
    }
    const Place owner = tile.packed / extent_;
    return {workspace(static_cast<int>(owner)) + area + stretch + bytes_of(tile.packed - owner * extent_), 1,
            0};
  }

  __device__ void send_by(Route route, const Tile& tile, const Data& data) const {
    const Team& team = one_shot && !gathers ? a_.grid.tp : a_.grid.world;
    if (parity() != 0) route.to += a_.workspace.area_bytes;
    send_to(tile, route, a_.workspace.stride * team.stride, one_shot ? team.member : 0, data);
  }

  /// Each tile of my input by its route, with several loads under way before the first store.
  __device__ void send() {
    if (!OverWire::any(mine_[0].tile.there)) return;
    if constexpr (!OverWire::is_wide)
      send_by(first_.route, mine_[0].tile, OverWire::picked(mine_[0].data, mine_[0].tile.begin));
    send_batch<OverWire::is_wide ? 0 : 1>();
    while (any_left()) {
      load_batch<0>();
      send_batch<0>();
    }
  }
  /// Whether tiles of my input are still to be loaded.
  [[nodiscard]] __device__ bool any_left() const {
    return next_ != typename TwoRuns::End{};
  }
  template <int from>
  __device__ void load_batch() {
#pragma unroll
    for (int k = from; k < depth; ++k) {
      mine_[k].tile = *next_;
      if (mine_[k].tile.there) mine_[k].data = input(mine_[k].tile).load();
      ++next_;
    }
  }
  template <int from>
  __device__ void send_batch() const {
#pragma unroll
    for (int k = from; k < depth; ++k)
      if (const Tile& tile = mine_[k].tile; OverWire::any(tile.there))
        send_by(route_of(tile), tile, OverWire::picked(mine_[k].data, tile.begin));
  }

  Place extent_ = 0;
  LaneTiles sums_;
  struct First {
    UserInput input;
    Route route;
  };
  struct Nothing {};
  /// Where the first tile of my input lies, and where it goes, made ready in prepare(). Not for wide tiles:
  /// they are used for much data, and the registers are worth more there.
  [[no_unique_address]] std::conditional_t<OverWire::is_wide, Nothing, First> first_;
  struct {
    Tile tile;
    Data data;
  } mine_[depth];                    ///< tiles of my input, the first ones on their way since prefetch()
  typename TwoRuns::Iterator next_;  ///< behind them
  UserOutput output_;
};

}  // namespace mixcomm::cuda
