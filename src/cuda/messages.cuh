// What travels in packets or lines, as a part of an operation.
#pragma once

#include "cuda/lane.cuh"

namespace mixcomm::cuda {

/// One lane's end of a pass over one wire.
template <class OverWire>
class Messages : public device::Messages<OverWire, Lane> {
  using Base = device::Messages<OverWire, Lane>;

 public:
  __device__ Messages(const Arguments& arguments, const LaneBlocks& blocks) : Base(arguments, blocks) {
    this->greets_ = false;
  }

  /// The next kernel may come at once: see agreed_lanes() for why that leaves room to the other ranks'.
  __device__ void begin() { ptx::let_next_kernel_start(); }
  __device__ void end() {}  // see keep_last()

 protected:
  using typename Base::Data;
  using typename Base::Route;

  __device__ void send_to(const Tile& tile, const Route& route, std::size_t step, int member,
                          const Data& data) const {
    Base::send_to(tile.there, route, step, member, data);
  }

  /// In the last pass: what the next operation counts from, while data is on its way. All threads have looked
  /// at what this one began with.
  __device__ void keep_last() {
    if (this->passes_ + 1 != this->a_.passes) return;
    __syncthreads();
    this->keep(this->number(), this->barriers());
  }
};

}  // namespace mixcomm::cuda
