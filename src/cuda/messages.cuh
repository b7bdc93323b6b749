// What travels in packets or lines: sent, and waited for, whatever it is a part of. Nothing else is waited
// for.
#pragma once

#include "cuda/lane.cuh"
#include "cuda/tiles.cuh"

namespace mixcomm::cuda {

/// One lane's end of a pass over one wire. Workspaces alternate from pass to pass. When a rank writes to one
/// again, it has heard in between from every rank: in data, or in a hello where a pair of ranks may have no
/// data to exchange.
template <class OverWire>
class Messages : public Lane {
 public:
  using Lane::Lane;

  /// The next kernel may come at once: see agreed_lanes() for why that leaves room to the other ranks'.
  __device__ void begin() { ptx::let_next_kernel_start(); }

  __device__ void begin_pass() {
    if (OverWire::any(state_.failed != 0)) ptx::leave();
    if (greets_ && threadIdx.x < members()) ptx::store_packet(hello(threadIdx.x, me()), 0, number());
  }
  __device__ void end() {}  // see keep_last()

 protected:
  static constexpr int batch = OverWire::batch;
  using Data = typename OverWire::Data;
  using Received = typename OverWire::Received;

  /// n tiles have come.
  template <int n>
  static constexpr std::uint32_t all_of = (1U << n) - 1;

  /// This thread has waited in vain for the members of `missing`, and writes to no rank any more.
  [[noreturn]] __device__ void leave(std::uint64_t missing) {
    fail(FailureRecord::timeout, missing);
    ptx::leave();
  }

  /// A tile's route to the ranks that sum it: to this place of the first one's workspace, when the pass's
  /// number is even, and to the same place of the others of `count`; `less`: but not to me, who am the last.
  struct Route {
    std::byte* to;
    int count;
    int less;
  };

  /// From the member behind `member` on, so that not all ranks send to the same one at the same time. Called
  /// by all threads that go in step.
  __device__ void send_to(const Tile& tile, const Route& route, std::size_t step, int member,
                          const Data& data) const {
    OverWire::gather_threads();
    if (!tile.there) return;
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

  /// In the last pass: what the next operation counts from, while data is on its way. All threads have looked
  /// at what this one began with.
  __device__ void keep_last() {
    if (passes_ + 1 != a_.passes) return;
    __syncthreads();
    keep(number(), barriers());
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

  /// What `count` elements take on the wire.
  [[nodiscard]] __device__ static std::size_t bytes_of(std::size_t count) {
    return OverWire::bytes_of(count);
  }

  /// The number of this pass.
  [[nodiscard]] __device__ std::uint64_t number() const {
    return packets() + 1;
  }
  [[nodiscard]] __device__ int parity() const {
    return a_.mutant.is(Mutant::one_workspace) ? 0 : static_cast<int>(number() % 2);
  }
  [[nodiscard]] __device__ bool arrived(const Received& received) const {
    return a_.mutant.is(Mutant::data_not_waited_for) || OverWire::has(received, number());
  }

  [[nodiscard]] __device__ std::size_t out_offset() const {
    return a_.workspace.area(Area::out(OverWire::kind, parity()), blockIdx.x);
  }
  [[nodiscard]] __device__ std::byte* in_area(int m) const {
    return workspace(m) + a_.workspace.area(Area::in(OverWire::kind, parity()), blockIdx.x);
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
      missing |= std::uint64_t{1} << (rank - a_.grid.world.first) / a_.grid.world.stride;
    }
    return missing;
  }

  bool greets_ = false;  ///< where a pair of ranks may have no data to exchange
};

}  // namespace mixcomm::cuda
