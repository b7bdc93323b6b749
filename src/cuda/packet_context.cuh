// The context of short messages: data travels in packets that say themselves whether they have come. Nothing
// else is waited for, and no buffer of the caller's is touched by another rank.
#pragma once

#include "algorithms/context.hpp"
#include "cuda/kernels.hpp"
#include "cuda/lane.cuh"

namespace mixcomm::cuda {

/// Workspaces alternate from pass to pass. When a rank writes to one again, it has heard in between from
/// every rank: in packets of data, or in a hello where a pair of ranks may have no data to exchange.
template <class T, bool gathers, bool one_shot>
class PacketContext : public Lane {
  static constexpr int words = 2;
  static constexpr int batch = one_shot && !gathers ? 8 : 4;  ///< packets looked for at a time
  static constexpr int elements = tile_elements<T, words * 4>;
  using Sum = Words<words>;

 public:
  static constexpr int threads =
      most_threads_of(one_shot ? Way::one_shot_packets : Way::two_shot_packets, gathers);
  using Tile = cuda::Tile;

  /// Where the packets of a sum lie in my workspace: source s's are `stride` bytes behind those of source s
  /// - 1.
  struct Input {
    std::byte* first;  ///< of the packed place 0
    std::size_t stride;
  };
  struct Output {};

  using Lane::Lane;

  /// What can be known of a pass before the previous kernel is complete.
  __device__ void prepare() {
    greets_ = !one_shot;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) greets_ |= b_.size(d) == 0;
#if defined(MIXCOMM_MUTANTS)
    if (a_.mutant == 5) greets_ = false;
#endif
    first_ = *tiles(my_input()).begin();
  }

  /// Starts to load the first tile of my input.
  __device__ void prefetch() {
    if (first_.packed < tiles(my_input()).end()) first_data_ = input(first_).load(first_.begin);
  }

  /// The next kernel may come at once: see agreed_lanes() for why that leaves room to the other ranks'.
  __device__ void begin() {
    ptx::let_next_kernel_start();
  }

  __device__ void begin_pass() {
    if (greets_ && threadIdx.x < members() && ok()) ptx::store_packet(hello(threadIdx.x, me()), 0, number());
  }

  __device__ void end_pass() {
    if (greets_ && threadIdx.x < members() && ok_) {
      const std::byte* theirs = hello(me(), threadIdx.x);
      while (ptx::load_packet(theirs).number != number())
        if (!may_wait()) {
          give_up(std::uint64_t{1} << threadIdx.x);
          break;
        }
    }
    waited();
    ++passes_;
  }

  /// one_shot: my input to every rank that sums it.
  __device__ Input publish() {
    if constexpr (gathers) {
      const std::size_t extent = bytes_of(b_.packed_size());
      send([&](const Tile& tile) {
        return Sending{a_.grid.world, extent * a_.grid.tp.member + bytes_of(tile.packed)};
      });
      return {in_area(me()), extent};
    }
    // Each rank gets the block of its DP rank, from packed place 0 on.
    const std::size_t extent = bytes_of(longest_block());
    send([&](const Tile& tile) {
      return Sending{a_.grid.over_tp(tile.block).inner, extent * my_source() + bytes_of(tile.begin)};
    });
    return {in_area(me()) - bytes_of(b_.start(packed, a_.grid.dp.member)), extent};
  }

  __device__ void retract(const Input&) {}  // all have copies of their own

  /// two_shot: of my input, to every rank its share.
  __device__ Input share() {
    const Place extent = share_size();
    const std::size_t mine = bytes_of(extent) * (gathers ? a_.grid.tp.member : my_source());
    send([&](const Tile& tile) {
      const Place owner = tile.packed / extent;
      return Sending{Team{a_.grid.world.rank(static_cast<int>(owner)), 1, 1, 0},
                     mine + bytes_of(tile.packed - owner * extent)};
    });
    return {in_area(me()) - bytes_of(static_cast<std::size_t>(extent) * me()), bytes_of(extent)};
  }

  __device__ Output open() {
    return {};
  }
  __device__ void barrier() {}

  __device__ void close(const Output&) {
    if (!ok()) return;
    const std::byte* area = workspace(me()) + out_offset();
    for (const Tile tile : tiles(gathers ? b_.everything() : b_.block(a_.grid.dp.member))) {
      ptx::Packet packet = ptx::load_packet(area + bytes_of(tile.packed));
      while (!arrived(packet)) {
        if (!may_wait()) return give_up(missing_for(tile.packed / share_size()));
        packet = ptx::load_packet(area + bytes_of(tile.packed));
      }
      store(tile, from_packet(packet));
    }
  }

  [[nodiscard]] __device__ Tiles<elements> tiles(Range run) const {
    return {b_, run};
  }

  __device__ Sum load_sum(const SumOrder& order, const Input& in, const Tile& tile) {
    const std::byte* packets = in.first + bytes_of(tile.packed);
    const int sources = order.size();
    OrderedSum<T, words, !gathers> sum(order.inner.size);
    ptx::Packet packet[batch];
    for (int first = 0; first < sources && ok_; first += batch) {
      const int count = sources - first;
#pragma unroll
      for (int k = 0; k < batch; ++k)
        if (k < count) packet[k] = ptx::load_packet(packets + k * in.stride);
      for (;;) {
        bool all =
            true;  // only what has not come is looked for again: looking takes bandwidth from what is to come
#pragma unroll
        for (int k = 0; k < batch; ++k) all = all && (k >= count || arrived(packet[k]));
        if (all) break;
        if (!may_wait()) {
          give_up(missing_of(order, first, count, packets, in.stride));
          break;
        }
#pragma unroll
        for (int k = 0; k < batch; ++k)
          if (k < count && !arrived(packet[k])) packet[k] = ptx::load_packet(packets + k * in.stride);
      }
      if (sources == 1) return from_packet(packet[0]);
#pragma unroll
      for (int k = 0; k < batch; ++k)
        if (k < count) sum.add(from_packet(packet[k]));
      packets += batch * in.stride;
    }
    return sum.rounded();
  }

  __device__ void store(const Tile& tile, const Sum& sum) const {
    if (!ok_) return;
    UserBlock<T, words>(static_cast<T*>(a_.out) + start<gathers>(tile.block), b_.size(tile.block))
        .store(tile.begin, sum);
  }

  __device__ void store_all(const Team& team, const Output&, const Tile& tile, const Sum& sum) const {
    if (ok()) send_to({team, out_offset() + bytes_of(tile.packed)}, data(sum));
  }

 private:
  static constexpr Coordinates packed = Coordinates::packed;

  /// A packet's way: to so many bytes into the workspace of every rank of a team.
  struct Sending {
    Team team;
    std::size_t offset;
  };

  __device__ void send_to(const Sending& way, std::uint64_t bits) const {
    std::byte* to = a_.workspace.of(way.team.first) + way.offset;
    const std::size_t step = a_.workspace.stride * way.team.stride;
#pragma unroll 4
    for (int m = 0; m < way.team.size; ++m, to += step) ptx::store_packet(to, bits, number());
  }

  /// Each tile of my input by its way.
  template <class Way>
  __device__ void send(const Way& way_of) {
    const Place end = tiles(my_input()).end();
    typename Tiles<elements>::Iterator next(b_, first_, end);
    if (!(next != end)) return;
    MIXCOMM_ROLLED
    for (Sum mine = first_data_;;) {
      Sending way = way_of(*next);
      way.offset += a_.workspace.area(parity(), blockIdx.x);
      if (ok()) send_to(way, data(mine));
      ++next;
      if (!(next != end)) return;
      mine = input(*next).load((*next).begin);
    }
  }

  [[nodiscard]] __device__ Range my_input() const {
    return gathers ? b_.block(a_.grid.dp.member) : b_.everything();
  }
  [[nodiscard]] __device__ UserBlock<const T, words> input(const Tile& tile) const {
    return {static_cast<const T*>(a_.in) + start<!gathers>(tile.block), b_.size(tile.block)};
  }

  /// `elements` elements of data take a packet.
  [[nodiscard]] __device__ static std::size_t bytes_of(std::size_t data_elements) {
    return data_elements * (sizeof(T) * 2);
  }
  [[nodiscard]] __device__ static std::uint64_t data(const Sum& sum) {
    return sum.word[0] | static_cast<std::uint64_t>(sum.word[1]) << 32U;
  }
  [[nodiscard]] __device__ static Sum from_packet(const ptx::Packet& packet) {
    return {{static_cast<std::uint32_t>(packet.data), static_cast<std::uint32_t>(packet.data >> 32U)}};
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
    return packet.number == number();
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
  [[nodiscard]] __device__ std::size_t longest_block() const {
    std::size_t longest = 0;
    MIXCOMM_ROLLED
    for (int d = 0; d < a_.grid.dp.size; ++d) {
      const std::size_t room = b_.packed_end(d) - b_.start(packed, d);
      longest = room > longest ? room : longest;
    }
    return longest;
  }
  /// Elements per member's share; member m sums what has packed places from m * share_size() on.
  [[nodiscard]] __device__ Place share_size() const {
    return static_cast<Place>(b_.share(0, members()).size);
  }
  /// The members that have not come to this pass; if all have, the one that did not sum its share.
  [[nodiscard]] __device__ std::uint64_t missing_for(Place owner) const {
    std::uint64_t missing = 0;
#pragma unroll 1
    for (int m = 0; m < members(); ++m)
      if (ptx::load_packet(hello(me(), m)).number != number()) missing |= std::uint64_t{1} << m;
    return missing != 0 ? missing : std::uint64_t{1} << owner;
  }
  /// The members among the `count` sources from `first` on whose packets have not come.
  [[nodiscard]] __device__ std::uint64_t missing_of(const SumOrder& order, int first, int count,
                                                    const std::byte* packets, std::size_t stride) const {
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
  Tile first_{};    ///< of my input's tiles
  Sum first_data_;  ///< ... on its way since prefetch()
};

}  // namespace mixcomm::cuda
