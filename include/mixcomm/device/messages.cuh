// Data that says itself whether it has come, in packets or lines: sent, and waited for. Nothing else is
// waited for.
#pragma once

#include "mixcomm/device/lane.cuh"
#include "mixcomm/device/user_tile.cuh"

namespace MIXCOMM_API mixcomm {
namespace device {

/// One lane's end of its passes over one wire: PacketWire<T> or LineWire<T, width>. `L` is Lane, or derived
/// from it.
///
/// A pass is begin_pass(), sends and receives in any order, and end_pass(), each by all threads of the block.
/// What a member sends lies in the other's workspace, in the part of an area that belongs to the lane: tile i
/// of it at tile_bytes(i), where sender and receiver have agreed on i. Areas alternate from pass to pass.
/// When a rank writes to one again, it has heard in between from every rank: in a hello, which begin_pass()
/// sends to all and end_pass() waits for.
///
/// All ranks launch the same number of thread blocks, and each of these runs the same number of passes: then
/// numbers agree, whatever else the lanes do before and after.
template <class OverWire, class L = Lane>
class Messages : public L {
 protected:
  using L::h_;
  using L::passes_;
  using L::state_;

 public:
  using Data = typename OverWire::Data;
  using Received = typename OverWire::Received;

  using L::barriers;
  using L::fail;
  using L::L;
  using L::may_wait;
  using L::me;
  using L::members;
  using L::packets;
  using L::waited;
  using L::workspace;

  /// All threads, first in a pass. A thread of a failed communicator leaves the kernel.
  __device__ void begin_pass() {
    if (OverWire::any(state_.failed != 0)) ptx::leave();
    if (greets_ && threadIdx.x < members()) ptx::store_packet(hello(threadIdx.x, me()), 0, number());
  }
  /// All threads, last in a pass. When it returns, every member has begun this pass, and all threads of this
  /// block have received what they waited for. A thread that waits in vain says who is missing, and leaves
  /// the kernel.
  __device__ void end_pass() {
    if (greets_) await_greeting(look_for_greeting());
    waited();
    ++passes_;
    __syncthreads();
  }

  /// The number of this pass.
  [[nodiscard]] __device__ std::uint64_t number() const { return packets() + 1; }

  /// What `count` elements, of whole tiles, take on the wire.
  [[nodiscard]] __device__ static std::size_t bytes_of(std::size_t count) {
    return OverWire::bytes_of(count);
  }
  /// What `count` tiles take.
  [[nodiscard]] __device__ static std::size_t tile_bytes(std::size_t count) {
    return count * OverWire::bytes_of(OverWire::elements);
  }
  /// Where the lane's part of member m's area begins, in this pass. It has workspace.lane_bytes bytes. A
  /// second area, for what is sent on when the first has been read, is out_area().
  [[nodiscard]] __device__ std::byte* in_area(int m) const {
    return workspace(m) + h_.workspace.area(Area::in(OverWire::kind, parity()), blockIdx.x);
  }
  [[nodiscard]] __device__ std::byte* out_area(int m) const { return workspace(m) + out_offset(); }

  /// A tile's route to the ranks that need it, `count` of them, next to each other: to this place of the
  /// first one's workspace, and to the same place of the others'.
  struct Route {
    std::byte* to;
    int count;
    int less;  ///< 1: not to the sender itself, which is one of them; else 0
  };

  /// Sends a tile along its route, from the rank behind number `member` of it (the sender) on, so that not
  /// all send to the same one at once. `step`: from one rank's slice to the next one's. By all threads that
  /// go in step: with lines all of a warp, also those that have nothing to send, with `there` false.
  __device__ void send_to(bool there, const Route& route, std::size_t step, int member,
                          const Data& data) const {
    OverWire::gather_threads();
    if (!there) return;
    int m = member + 1 < route.count ? member + 1 : 0;
    std::byte* to = route.to + m * step;
    MIXCOMM_ROLLED
    for (int i = route.less; i < route.count; ++i) {
      OverWire::send(to, data, number());
      to += step;
      if (++m == route.count) {
        m = 0;
        to = route.to;
      }
    }
  }
  /// The same to all members, this rank included: at `offset` of the lane's part of each one's first area.
  __device__ void send_to_all(bool there, std::size_t offset, const Data& data) const {
    send_to(there, {in_area(0) + offset, members(), 0}, h_.workspace.stride * h_.grid.world.stride, me(),
            data);
  }

  /// n tiles have come.
  template <int n>
  static constexpr std::uint32_t all_of = (1U << n) - 1;

  /// Looks for the tiles at address(0), ... until all have come, but those of `here`, bit k for tile k. False
  /// if some do not; `here` says then which have. No load is behind a branch, so all are under way together;
  /// only what has not come is looked for again, since looking takes bandwidth from what is to come. All
  /// threads that go in step call it, and it returns the same to all of them.
  template <int n, class Address>
  __device__ bool receive(Received (&received)[n], std::uint32_t& here, const Address& address) {
    here &= all_of<n>;
    OverWire::gather_threads();
#pragma unroll
    for (int k = 0; k < n; ++k) received[k] = {};  // of no pass
    MIXCOMM_ROLLED
    for (;;) {
#pragma unroll
      for (int k = 0; k < n; ++k) OverWire::look_if((here >> k & 1U) == 0, address(k), received[k]);
      const bool patient = may_wait();  // reckoned while the loads are under way
#pragma unroll
      for (int k = 0; k < n; ++k) here |= arrived(received[k]) ? 1U << k : 0;
      here = OverWire::agreed(here);
      if (!OverWire::any(here != all_of<n>)) return true;
      if (OverWire::any(!patient)) return false;
    }
  }
  /// The tile that member m has sent to `offset` of the first area; `there`: whether one is to come. By all
  /// threads that go in step. A thread that waits in vain says that m is missing, and leaves the kernel.
  [[nodiscard]] __device__ Data receive_from(int m, bool there, std::size_t offset) {
    Received received[1];
    std::uint32_t here = there ? 0 : 1;
    const std::byte* const at = in_area(me()) + offset;
    if (!receive(received, here, [&](int) { return at; })) {
      if (here == all_of<1>) ptx::leave();  // a thread beside it says who is missing
      leave(std::uint64_t{1} << m);
    }
    return OverWire::data(received[0]);
  }

  /// This thread has waited in vain for the members of `missing`, and writes to no rank any more.
  [[noreturn]] __device__ void leave(std::uint64_t missing) {
    fail(FailureRecord::timeout, missing);
    ptx::leave();
  }

 protected:
  static constexpr int batch = OverWire::batch;

  [[nodiscard]] __device__ int parity() const {
    return this->half_of(number());
  }
  [[nodiscard]] __device__ bool arrived(const Received& received) const {
    return this->taken(OverWire::has(received, number()));
  }

  [[nodiscard]] __device__ ptx::Packet look_for_greeting() const {
    return ptx::load_packet(hello(me(), threadIdx.x < members() ? threadIdx.x : 0));
  }
  /// `greeting`: what a look at it has found.
  __device__ void await_greeting(ptx::Packet greeting) {
    const bool greeted = threadIdx.x < members();
    for (;;) {
      const bool come = !greeted || greeting.number() == number();
      if (!OverWire::any(!come)) return;
      if (OverWire::any(!may_wait())) {
        if (come) ptx::leave();  // the thread beside it says who is missing
        leave(std::uint64_t{1} << threadIdx.x);
      }
      greeting = look_for_greeting();
    }
  }

  [[nodiscard]] __device__ std::size_t out_offset() const {
    return h_.workspace.area(Area::out(OverWire::kind, parity()), blockIdx.x);
  }
  /// Where member `from` writes its hello for member `to`.
  [[nodiscard]] __device__ std::byte* hello(int to, int from) const {
    return workspace(to) + Workspace::hello(parity(), blockIdx.x, from);
  }
  /// The members that have not come to this pass; if all have, the one that did not sum its share.
  [[nodiscard]] __device__ std::uint64_t missing_for(Place owner) const {
    std::uint64_t missing = 0;
#pragma unroll 1
    for (int m = 0; m < members(); ++m)
      if (ptx::load_packet(hello(me(), m)).number() != number()) missing |= std::uint64_t{1} << m;
    return missing != 0 ? missing : std::uint64_t{1} << owner;
  }
  /// Of the `count` sources from `first` on: the members whose data have not come. `own` is not looked at.
  [[nodiscard]] __device__ std::uint64_t missing_of(const SumOrder& order, int first, int count,
                                                    const std::byte* from, Place stride, int own) const {
    std::uint64_t missing = 0;
#pragma unroll 1
    for (int k = 0; k < batch && k < count; ++k) {
      const int source = first + k;
      if (source == own || OverWire::has_come(from + k * stride, number())) continue;
      const int rank = order.rank(source % order.inner.size, source / order.inner.size);
      missing |= std::uint64_t{1} << (rank - h_.grid.world.first) / h_.grid.world.stride;
    }
    return missing;
  }

  bool greets_ = true;  ///< the library's operations turn it off where all ranks exchange data anyway
};

}  // namespace device
}  // namespace mixcomm
