// What all contexts are made of: one lane of one rank, and where the caller's tiles lie.
#pragma once

#include "cuda/arguments.hpp"
#include "cuda/device.cuh"
#include "cuda/tiles.cuh"

namespace mixcomm::cuda {

class Lane : public device::Lane {
 public:
  __device__ Lane(const Arguments& arguments, const LaneBlocks& blocks)
      : device::Lane(arguments), a_(arguments), b_(blocks) {}

 protected:
  /// Where the covered part of block d begins in a tensor with all blocks, or with one.
  template <bool all_blocks>
  [[nodiscard]] __device__ std::size_t start(int d) const {
    return b_.start(all_blocks ? Coordinates::all_blocks : Coordinates::one_block, d);
  }
  /// Block d of the caller's input, or output: what this pass covers of it.
  template <class T, Body body>
  [[nodiscard]] __device__ const T* input_block(int d) const {
    return static_cast<const T*>(a_.in) + start<body == Body::scatter>(d);
  }
  template <class T, Body body>
  [[nodiscard]] __device__ T* output_block(int d) const {
    return static_cast<T*>(a_.out) + start<body == Body::gather>(d);
  }
  /// My place in the order of a sum over all ranks.
  [[nodiscard]] __device__ int my_source() const {
    return a_.grid.dp.member * a_.grid.tp.size + a_.grid.tp.member;
  }

  [[nodiscard]] __device__ int half_of(std::uint64_t number) const {
    return a_.mutant.is(Mutant::one_workspace) ? 0 : device::Lane::half_of(number);
  }
  [[nodiscard]] __device__ bool taken(bool has_number) const {
    return a_.mutant.is(Mutant::data_not_waited_for) || has_number;
  }

  const Arguments& a_;
  const LaneBlocks& b_;
};

}  // namespace mixcomm::cuda
