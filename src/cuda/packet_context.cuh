// The context of short messages: data travels in packets that say themselves whether they have come. Nothing
// else is waited for, and no buffer of the caller's is touched by another rank.
#pragma once

#include <type_traits>

#include "algorithms/one_shot.hpp"
#include "algorithms/two_shot.hpp"
#include "cuda/kernels.hpp"
#include "cuda/lane.cuh"

namespace mixcomm::cuda {

/// Workspaces alternate from pass to pass. When a rank writes to one again, it has heard in between from
/// every rank: in packets of data, or in a hello where a pair of ranks may have no data to exchange.
template <class T, bool gathers, Way way>
class PacketContext : public Lane {
  static constexpr bool one_shot = way == Way::one_shot_packets;
  static constexpr int words = 2;
  static constexpr int batch = 8;                 ///< packets of a sum under way at a time
  static constexpr int depth = one_shot ? 2 : 4;  ///< tiles on their way in or out at a time
  static constexpr int elements = tile_elements<T, words * 4>;
  using Sum = Words<words>;

 public:
  using Tile = cuda::Tile;

  /// Where the packets of a sum lie in my workspace: source s's are `stride` bytes behind those of source s
  /// - 1.
  struct Input {
    const std::byte* first;
    Place stride;
  };
  struct Output {};

  using Lane::Lane;

  /// What can be known of a pass before the previous kernel is complete. A call of few bytes is one chain of
  /// latencies, and whatever is looked up on the way of the data makes it longer.
  __device__ void prepare() {
    greets_ = !one_shot;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) greets_ |= b_.size(d) == 0;
#if defined(MIXCOMM_MUTANTS)
    if (a_.mutant == 5) greets_ = false;
#endif
    extent_ = extent();
    sends_ = {b_, gathers ? b_.block(a_.grid.dp.member) : b_.everything()};
    if constexpr (one_shot)
      sums_ = {b_, one_shot_sums<gathers>(a_.grid, b_)};
    else
      sums_ = {b_, two_shot_sums(a_.grid, b_)};
    if (!sends_.any()) return;
    first_input_ = input_tile<T, words, gathers>(sends_.first());
    first_route_ = route_of(sends_.first());
  }

  /// Starts to load the first tiles of my input.
  __device__ void prefetch() {
    if (!sends_.any()) return;
    next_ = sends_.begin();
    mine_[0] = {*next_, first_input_.load()};
    ++next_;
    load_batch<1>();
  }

  /// The next kernel may come at once: see agreed_lanes() for why that leaves room to the other ranks'.
  __device__ void begin() {
    ptx::let_next_kernel_start();
  }

  __device__ void begin_pass() {
    if (state_.failed != 0) ptx::leave();
    if (greets_ && threadIdx.x < members()) ptx::store_packet(hello(threadIdx.x, me()), 0, number());
  }

  __device__ void end_pass() {
    if (one_shot && greets_) await_greeting(look_for_greeting());
    waited();
    ++passes_;
  }

  /// one_shot: my input to every rank that sums it.
  __device__ Input publish() {
    send();
    return {in_area(me()), static_cast<Place>(bytes_of(extent_))};
  }
  __device__ void retract(const Input&) {}  // all have copies of their own

  /// two_shot: of my input, to every rank its share.
  __device__ Input share() {
    send();
    return {in_area(me()) - bytes_of(extent_) * me(), static_cast<Place>(bytes_of(extent_))};
  }

  __device__ Output open() {
    return {};
  }
  __device__ void barrier() {}

  __device__ void close(const Output&) {
    const ptx::Packet greeting = look_for_greeting();  // under way while the sums are waited for
    const std::byte* area = workspace(me()) + out_offset();
    const Tiles<elements> all(b_, gathers ? b_.everything() : b_.block(a_.grid.dp.member));
    for (auto next = all.begin(); next != all.end();) {
      Tile tile[depth];
      int count = 0;
#pragma unroll
      for (int k = 0; k < depth; ++k) {
        tile[k] = *next;
        if (!(next != all.end())) {
          tile[k] = tile[0];
          continue;
        }
        ++next;
        ++count;
      }
      const auto receive_all = [&](auto n) {
        ptx::Packet packet[n()];
        if (!receive(packet, [&](int k) { return area + bytes_of(tile[k].packed); })) return false;
#pragma unroll
        for (int k = 0; k < n(); ++k)
          if (k < count) output_tile<T, words, gathers>(tile[k]).store(from_packet(packet[k]));
        return true;
      };
      const bool come = count > 2   ? receive_all(Number<depth>{})
                        : count > 1 ? receive_all(Number<2>{})
                                    : receive_all(Number<1>{});
      if (!come) leave(missing_for(tile[0].packed / extent_));
    }
    if (greets_) await_greeting(greeting);
  }

  /// `run` is what this context's body sums, for which prepare() has made ready.
  [[nodiscard]] __device__ const Tiles<elements>& tiles(Range /*run*/) const {
    return sums_;
  }

  __device__ Sum load_sum(const SumOrder& order, const Input& in, const Tile& tile) {
    // Where it will go is looked up while its packets are on their way.
    if constexpr (one_shot) output_ = output_tile<T, words, gathers>(tile);
    const std::byte* packets = in.first + bytes_of(one_shot && !gathers ? tile.begin : tile.packed);
    const int sources = order.size();
    OrderedSum<T, words, !gathers> sum(order.inner.size);
    for (int first = 0; first < sources; first += batch, packets += batch * in.stride) {
      const int count = sources - first < batch ? sources - first : batch;
      const auto add_all = [&](auto n) {
        ptx::Packet packet[n()];
        if (!receive(packet,
                     [&](int k) { return packets + static_cast<Place>(k < count ? k : 0) * in.stride; }))
          return false;
#pragma unroll
        for (int k = 0; k < n(); ++k)
          if (k < count) sum.add(from_packet(packet[k]));
        return true;
      };
      const bool come = count > 4   ? add_all(Number<8>{})
                        : count > 2 ? add_all(Number<4>{})
                                    : add_all(Number<2>{});
      if (!come) leave(missing_of(order, first, count, packets, in.stride));
    }
    return sum.rounded();
  }

  __device__ void store(const Tile& /*tile*/, const Sum& sum) const {
    output_.store(sum);
  }

  __device__ void store_all(const Team& team, const Output&, const Tile& tile, const Sum& sum) const {
    std::byte* to = a_.workspace.of(team.first) + out_offset() + bytes_of(tile.packed);
    send_to(to, team.size, a_.workspace.stride * team.stride, data(sum));
  }

 private:
  static constexpr Coordinates packed = Coordinates::packed;

  /// This thread has waited in vain for the members of `missing`, and writes to no rank any more.
  [[noreturn]] __device__ void leave(std::uint64_t missing) {
    fail(FailureRecord::timeout, missing);
    ptx::leave();
  }

  /// A packet's route to the ranks that sum it: to this place of the first one's workspace, when the pass's
  /// number is even, and to the same place of `count - 1` more.
  struct Route {
    std::byte* to;
    int count;
  };

  [[nodiscard]] __device__ Route route_of(const Tile& tile) const {
    const std::size_t area = a_.workspace.area(0, blockIdx.x);
    const std::size_t stretch = bytes_of(extent_) * (gathers ? a_.grid.tp.member : my_source());
    if constexpr (one_shot) {
      const Team team = gathers ? a_.grid.world : a_.grid.over_tp(tile.block).inner;
      return {a_.workspace.of(team.first) + area + stretch + bytes_of(gathers ? tile.packed : tile.begin),
              team.size};
    }
    const Place owner = tile.packed / extent_;
    return {workspace(static_cast<int>(owner)) + area + stretch + bytes_of(tile.packed - owner * extent_), 1};
  }

  __device__ void send_to(std::byte* to, int count, std::size_t step, std::uint64_t bits) const {
#pragma unroll 4
    for (int m = 0; m < count; ++m, to += step) ptx::store_packet(to, bits, number());
  }
  __device__ void send_by(const Route& route, const Sum& sum) const {
    const int stride = one_shot && !gathers ? a_.grid.tp.stride : a_.grid.world.stride;
    send_to(route.to + (parity() == 0 ? 0 : a_.workspace.area_bytes), route.count,
            a_.workspace.stride * stride, data(sum));
  }

  /// Each tile of my input by its route, with several loads under way before the first store.
  __device__ void send() {
    if (!sends_.any()) return;
    send_by(first_route_, mine_[0].data);
    send_batch<1>();
    while (next_ != sends_.end()) {
      load_batch<0>();
      send_batch<0>();
    }
  }
  template <int from>
  __device__ void load_batch() {
#pragma unroll
    for (int k = from; k < depth; ++k) {
      mine_[k].tile = *next_;
      if (!(next_ != sends_.end())) continue;
      mine_[k].data = input_tile<T, words, gathers>(mine_[k].tile).load();
      ++next_;
    }
  }
  template <int from>
  __device__ void send_batch() const {
#pragma unroll
    for (int k = from; k < depth; ++k)
      if (mine_[k].tile.packed < sends_.end()) send_by(route_of(mine_[k].tile), mine_[k].data);
  }

  [[nodiscard]] __device__ ptx::Packet look_for_greeting() const {
    return ptx::load_packet(hello(me(), threadIdx.x < members() ? threadIdx.x : 0));
  }
  /// `greeting`: what a look at it has found.
  __device__ void await_greeting(ptx::Packet greeting) {
    if (threadIdx.x >= members()) return;
    while (greeting.number() != number()) {
      if (!may_wait()) leave(std::uint64_t{1} << threadIdx.x);
      greeting = look_for_greeting();
    }
  }

  template <int n>
  using Number = std::integral_constant<int, n>;

  /// Looks for the packets at address(0), ... until all have come. False if they do not. No load is behind a
  /// branch, so all are under way together; only what has not come is looked for again, since looking takes
  /// bandwidth from what is to come.
  template <int n, class Address>
  __device__ bool receive(ptx::Packet (&packet)[n], const Address& address) {
#pragma unroll
    for (int k = 0; k < n; ++k) packet[k] = {};  // of no pass
    MIXCOMM_ROLLED
    for (;;) {
#pragma unroll
      for (int k = 0; k < n; ++k) ptx::load_packet_if(!arrived(packet[k]), address(k), packet[k]);
      const bool patient = may_wait();  // reckoned while the loads are under way
      bool all = true;
#pragma unroll
      for (int k = 0; k < n; ++k) all = all && arrived(packet[k]);
      if (all) return true;
      if (!patient) return false;
    }
  }

  /// Elements from one source's packets to the next one's, in the workspace of who sums them.
  [[nodiscard]] __device__ Place extent() const {
    if constexpr (!one_shot) return static_cast<Place>(b_.share(0, members()).size);
    if constexpr (gathers) return static_cast<Place>(b_.packed_size());
    Place longest = 0;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) {
      const auto room = static_cast<Place>(b_.packed_end(d) - b_.start(packed, d));
      longest = room > longest ? room : longest;
    }
    return longest;
  }

  /// `elements` elements of data take a packet.
  [[nodiscard]] __device__ static std::size_t bytes_of(std::size_t data_elements) {
    return data_elements * (sizeof(T) * 2);
  }
  [[nodiscard]] __device__ static std::uint64_t data(const Sum& sum) {
    return sum.word[0] | static_cast<std::uint64_t>(sum.word[1]) << 32U;
  }
  [[nodiscard]] __device__ static Sum from_packet(const ptx::Packet& packet) {
    return {{static_cast<std::uint32_t>(packet.data()), static_cast<std::uint32_t>(packet.data() >> 32U)}};
  }

  /// Of this pass.
  [[nodiscard]] __device__ std::uint64_t number() const {
    return packets() + 1;
  }
  [[nodiscard]] __device__ int parity() const {
#if defined(MIXCOMM_MUTANTS)
    if (a_.mutant == 4) return 0;
#endif
    return static_cast<int>(number() % 2);
  }
  [[nodiscard]] __device__ bool arrived(const ptx::Packet& packet) const {
#if defined(MIXCOMM_MUTANTS)
    if (a_.mutant == 3) return true;
#endif
    return packet.number() == number();
  }

  [[nodiscard]] __device__ std::size_t out_offset() const {
    return a_.workspace.area(2 + parity(), blockIdx.x);
  }
  [[nodiscard]] __device__ std::byte* in_area(int m) const {
    return workspace(m) + a_.workspace.area(parity(), blockIdx.x);
  }
  /// Where `from` greets `to`.
  [[nodiscard]] __device__ std::byte* hello(int to, int from) const {
    return workspace(to) + Workspace::flags_bytes +
           ((parity() * most_lanes + blockIdx.x) * most_ranks + from) * sizeof(ptx::Packet);
  }
  /// My place in the order of a sum over all ranks.
  [[nodiscard]] __device__ int my_source() const {
    return a_.grid.dp.member * a_.grid.tp.size + a_.grid.tp.member;
  }
  /// The members that have not come to this pass; if all have, the one that did not sum its share.
  [[nodiscard]] __device__ std::uint64_t missing_for(Place owner) const {
    std::uint64_t missing = 0;
#pragma unroll 1
    for (int m = 0; m < members(); ++m)
      if (ptx::load_packet(hello(me(), m)).number() != number()) missing |= std::uint64_t{1} << m;
    return missing != 0 ? missing : std::uint64_t{1} << owner;
  }
  /// The members among the `count` sources from `first` on whose packets have not come.
  [[nodiscard]] __device__ std::uint64_t missing_of(const SumOrder& order, int first, int count,
                                                    const std::byte* packets, Place stride) const {
    std::uint64_t missing = 0;
#pragma unroll 1
    for (int k = 0; k < batch && k < count; ++k) {
      if (arrived(ptx::load_packet(packets + k * stride))) continue;
      const int source = first + k;
      const int rank = order.rank(source % order.inner.size, source / order.inner.size);
      missing |= std::uint64_t{1} << (rank - a_.grid.world.first) / a_.grid.world.stride;
    }
    return missing;
  }

  bool greets_ = false;
  Place extent_ = 0;
  Tiles<elements> sends_;  ///< of my input
  Tiles<elements> sums_;
  UserTile<const T, words> first_input_;  ///< the first tile of `sends_`
  Route first_route_;
  struct {
    Tile tile;
    Sum data;
  } mine_[depth];  ///< tiles of `sends_`, the first ones on their way since prefetch()
  typename Tiles<elements>::Iterator next_;  ///< behind them
  UserTile<T, words> output_;
};

}  // namespace mixcomm::cuda
