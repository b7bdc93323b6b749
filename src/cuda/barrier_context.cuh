// The context of long messages: plain data between barriers. Symmetric buffers are read and written where
// they are, others are staged: inputs are copied to where peers read them, sums are kept where peers fetch
// them.
#pragma once

#include "algorithms/two_shot.hpp"
#include "cuda/lane.cuh"

namespace mixcomm::cuda {

/// Staging areas need not alternate: between a rank's last read of one and its owner's next write to it there
/// is always a barrier.
///
/// `few`: of so few data that each thread has one tile to sum, with all its loads under way at once.
template <class T, Body body, bool few>
class BarrierContext : public device::Barriers<Lane> {
  static constexpr int words = 4;
  static constexpr int elements = words * 4 / sizeof(T);
  using Sum = Words<words>;
  using LaneTiles = Tiles<elements>;

 public:
  using Input = View;
  using Output = View;
  using Tile = cuda::Tile;

  using device::Barriers<Lane>::Barriers;

  /// With few data, tiles are made ready before the previous kernel is complete. With more, the registers
  /// that this takes are worth more.
  __device__ void prepare() {
    if constexpr (few) sums_ = {b_, two_shot_sums(a_.grid, b_)};
  }
  __device__ void prefetch() {}
  __device__ void begin() {}
  __device__ void begin_pass() {}
  __device__ void end_pass() {}
  __device__ void end() {
    __syncthreads();  // all threads have loaded the state
    keep(packets(), barriers());
  }

  __device__ Input share() {
    if (a_.in_view.first != nullptr) return a_.in_view;
    const View staged = staging(Area::staged_in());
    if (!ok()) return staged;  // peers may still read what the call that failed has put there
    copy(
        body == Body::gather ? b_.block(a_.grid.dp.member) : b_.everything(),
        [&](const Tile& tile) {
          const UserTile<const T, words> in(input_block<T, body>(tile.block), b_.size(tile.block),
                                            tile.begin);
          return in.load();
        },
        [&](const Tile& tile, const Sum& value) { write(at(staged, a_.grid.rank(), tile), value); });
    return staged;
  }

  __device__ Output open() {
    return a_.out_view.first != nullptr ? a_.out_view : staging(Area::staged_out());
  }

  /// Fetches each member's sums from where it keeps them.
  __device__ void close(const Output& out) {
    if (a_.out_view.first != nullptr || !ok_) return;
    const auto extent = static_cast<Place>(b_.share(0, members()).size);
    copy(
        body == Body::gather ? b_.everything() : b_.block(a_.grid.dp.member),
        [&](const Tile& tile) {
          return read(at(out, a_.grid.world.rank(static_cast<int>(tile.packed / extent)), tile));
        },
        [&](const Tile& tile, const Sum& value) {
          UserTile<T, words>(output_block<T, body>(tile.block), b_.size(tile.block), tile.begin).store(value);
        });
  }

  /// Every rank's thread block of this index has come here, and what the others wrote before can be read. The
  /// first barrier of a pass releases only what was staged in it: what symmetric buffers hold was written by
  /// earlier kernels, which are complete. Behind the last one only staged sums are read.
  __device__ void barrier() {
    if (!ok_) return;  // all threads know
    ++barriers_;
    const bool last = barriers_ % 2 == 0;
    if (a_.mutant.is(last ? Mutant::no_second_barrier : Mutant::no_first_barrier)) return;
    const bool releases = last || a_.in_view.first == nullptr;
    const bool acquires = !last || a_.out_view.first == nullptr;
    meet_counted({releases, acquires});
    // One rank is slow to sum: without the second barrier the others would be gone before it has written to
    // them.
    if (has_mutants && !last && me() == 1)
      for (const std::uint64_t until = ptx::nanoseconds() + 1'000'000; ptx::nanoseconds() < until;) {
      }
    // All ranks' kernels of this lane are running: the next one's can take no place that they wait for.
    if (barriers_ == 1) ptx::let_next_kernel_start();
  }

  /// `run` is what this context's body sums.
  [[nodiscard]] __device__ LaneTiles tiles(Range run) const {
    if constexpr (few) return sums_;
    return {b_, run};
  }

  __device__ Sum load_sum(const SumOrder& order, const Input& in, const Tile& tile) const {
    const std::byte* source = at(in, order.inner.first, tile);
    const int sources = order.size();
    if (sources == 1) return read(source);
    const std::size_t to_next = in.stride * order.inner.stride;
    const std::size_t to_next_outer = in.stride * order.outer_stride - to_next * (order.inner.size - 1);
    OrderedSum<T, words, body == Body::scatter, few ? 0 : 2> sum(order.inner.size, sources);
    int position = 0;
    constexpr int batch = few ? 8 : 4;
    for (int first = 0; first < sources;) {
      const int count = sum.next(first, batch);
      Words<words> value[batch];
#pragma unroll
      for (int k = 0; k < batch; ++k) {
        if (k >= count) break;
        value[k] = read(source);
        const bool last = ++position == order.inner.size;
        source += last ? to_next_outer : to_next;
        position = last ? 0 : position;
      }
      sum.template add<batch>(first, count, [&](int k) { return value[k]; });
      if constexpr (few) break;  // launch_for() sees to it that all sources are one batch
      first += count;
    }
    return sum.rounded();
  }

  __device__ void store_all(const Team& team, const Output& out, const Tile& tile, const Sum& sum) const {
    if (!ok_) return;
    if (a_.out_view.first == nullptr) return write(at(out, a_.grid.rank(), tile), sum);
    if (out.multicast != nullptr && team.size == a_.grid.world.size)
      return ptx::store_multicast(
          out.multicast + (b_.start(out.coordinates, tile.block) + tile.begin) * sizeof(T), sum.word);
    std::byte* to = at(out, team.first, tile);
    const std::size_t stride = out.stride * team.stride;
#pragma unroll 4
    for (int m = 0; m < team.size; ++m, to += stride) write(to, sum);
  }

 private:
  /// Tile by tile, with several loads under way before the first store.
  template <class Load, class Store>
  __device__ void copy(const Range& run, const Load& load, const Store& put) const {
    constexpr int depth = 4;
    const LaneTiles all(b_, run);
    auto next = all.begin();
    while (next != all.end()) {
      Tile tile[depth];
      Sum value[depth];
#pragma unroll
      for (int k = 0; k < depth; ++k) {
        tile[k] = *next;
        if (!tile[k].there) continue;
        value[k] = load(tile[k]);
        ++next;
      }
#pragma unroll
      for (int k = 0; k < depth; ++k)
        if (tile[k].there) put(tile[k], value[k]);
    }
  }

  [[nodiscard]] __device__ std::byte* at(const View& view, int rank, const Tile& tile) const {
    return view.of(rank) + (b_.start(view.coordinates, tile.block) + tile.begin) * sizeof(T);
  }
  [[nodiscard]] __device__ View staging(Area area) const {
    return {a_.workspace.first + a_.workspace.area(area, blockIdx.x), a_.workspace.stride, nullptr,
            Coordinates::packed};
  }
  [[nodiscard]] __device__ static Sum read(const std::byte* address) {
    Sum result;
    ptx::load_once(address, result.word);
    return result;
  }
  __device__ static void write(std::byte* address, const Sum& value) {
    *reinterpret_cast<uint4*>(address) =
        make_uint4(value.word[0], value.word[1], value.word[2], value.word[3]);
  }

  LaneTiles sums_;
};

}  // namespace mixcomm::cuda
