// How what a lane covers is cut into tiles and dealt to its threads.
#pragma once

#include <type_traits>

#include "algorithms/blocks.hpp"
#include "cuda/device.cuh"
#include "cuda/workspace.hpp"

namespace mixcomm::cuda {

using LaneBlocks = BasicBlocks<most_ranks>;

/// A few elements of one block.
struct Tile {
  int block;
  Place begin;   ///< in the covered part of the block
  Place packed;  ///< in all that the pass covers
  bool there;    ///< or else the team has no tile left, and only keeps step with its warp
};

/// One packed run, and one that comes after it. Runs begin and end at multiples of a tile, or where a block
/// ends.
struct Runs {
  Range first;
  Range second;

  Runs() = default;
  __device__ Runs(const Range& only)
      : first(only), second{only.begin, 0} {}  // NOLINT(google-explicit-constructor)
  __device__ Runs(const Range& a, const Range& b)
      : first(a.size > 0 ? a : b), second(a.size > 0 ? b : Range{}) {}
  /// `whole` without `left_out`, from behind that on.
  [[nodiscard]] __device__ static Runs around(const Range& whole, const Range& left_out) {
    const std::size_t end = whole.begin + whole.size;
    const std::size_t from = left_out.begin > whole.begin ? left_out.begin : whole.begin;
    const std::size_t to = left_out.begin + left_out.size;
    if (left_out.size == 0 || from >= end || to <= whole.begin) return whole;
    return {Range{to, to < end ? end - to : 0}, Range{whole.begin, from - whole.begin}};
  }
};

/// A team's tiles of one run, or of two. `threads` threads next to each other are a team; tiles are dealt to
/// the teams of the lane in turn. The teams of a warp go in step, until none has a tile left: a warp whose
/// threads part does everything once for each part, one after the other.
template <int elements, int threads = 1, int runs = 1>
class Tiles {
 public:
  struct End {};

  class Iterator {
   public:
    Iterator() = default;
    __device__ Iterator(const LaneBlocks& blocks, Place packed, Place end, const Range& then)
        : blocks_(&blocks), end_(end), packed_(packed) {
      if constexpr (runs == 2) {
        then_.begin = static_cast<Place>(then.begin);
        then_.end = static_cast<Place>(then.begin + then.size);
      }
    }
    __device__ Tile operator*() const { return {block_, begin_, packed_, packed_ < end_}; }
    __device__ Iterator& operator++() {
      if (packed_ < end_) packed_ += stride();
      settle();
      return *this;
    }
    __device__ bool operator!=(End) const {
      if constexpr (threads == 1) return packed_ < end_;
      return __any_sync(~0U, packed_ < end_) != 0;
    }

    /// Finds the block, and skips what only rounds blocks up.
    __device__ void settle() {
      for (; has_tile(); packed_ += stride()) {
        MIXCOMM_ROLLED
        while (packed_ >= static_cast<Place>(blocks_->packed_end(block_))) ++block_;
        const Range block = blocks_->block(block_);
        begin_ = packed_ - static_cast<Place>(block.begin);
        if (begin_ < static_cast<Place>(block.size)) return;
      }
    }

   private:
    /// Goes on to the second run, where the first one ends.
    __device__ bool has_tile() {
      if constexpr (runs == 2)
        if (packed_ >= end_ && then_.begin != then_.end) {
          block_ = 0;
          packed_ = then_.begin + (packed_ - end_);
          end_ = then_.end;
          then_.begin = then_.end;
        }
      return packed_ < end_;
    }

    const LaneBlocks* blocks_;
    Place end_;
    struct Nothing {};
    struct Then {
      Place begin;
      Place end;
    };
    [[no_unique_address]] std::conditional_t<runs == 2, Then, Nothing>
        then_;  ///< the second run, until it is begun
    int block_ = 0;
    Place begin_ = 0;
    Place packed_;
  };

  Tiles() = default;
  __device__ Tiles(const LaneBlocks& blocks, const Runs& all)
      : first_(blocks, static_cast<Place>(all.first.begin) + threadIdx.x / threads * elements,
               static_cast<Place>(all.first.begin + all.first.size), all.second) {
    first_.settle();
  }
  /// At this team's first tile.
  [[nodiscard]] __device__ const Iterator& begin() const { return first_; }
  [[nodiscard]] __device__ End end() const { return {}; }

 private:
  [[nodiscard]] __device__ static Place stride() { return blockDim.x / threads * elements; }

  Iterator first_;
};

}  // namespace mixcomm::cuda
