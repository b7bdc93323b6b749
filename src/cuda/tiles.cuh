// How what a lane covers is cut into tiles and dealt to its threads.
#pragma once

#include <type_traits>

#include "algorithms/blocks.hpp"
#include "cuda/workspace.hpp"

namespace mixcomm::cuda {

using LaneBlocks = BasicBlocks<most_ranks>;

/// A place in what a lane covers in one pass, in elements: fewer than 2^31 (the host sees to it).
using Place = std::uint32_t;

/// A few elements of one block.
struct Tile {
  int block;
  Place begin;   ///< in the covered part of the block
  Place packed;  ///< in all that the pass covers
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
/// the teams of the lane in turn.
template <int elements, int threads = 1, int runs = 1>
class Tiles {
 public:
  struct End {};

  class Iterator {
   public:
    Iterator() = default;
    __device__ Iterator(const LaneBlocks& blocks, const Tile& tile, Place end, const Range& then)
        : blocks_(&blocks), end_(end), tile_(tile) {
      if constexpr (runs == 2) {
        then_.begin = static_cast<Place>(then.begin);
        then_.end = static_cast<Place>(then.begin + then.size);
      }
    }
    __device__ Tile operator*() const { return tile_; }
    __device__ Iterator& operator++() {
      tile_.packed += stride();
      settle();
      return *this;
    }
    __device__ bool operator!=(End) const { return tile_.packed < end_; }

    /// Finds the block, and skips what only rounds blocks up.
    __device__ void settle() {
      for (; has_tile(); tile_.packed += stride()) {
        MIXCOMM_ROLLED
        while (tile_.packed >= static_cast<Place>(blocks_->packed_end(tile_.block))) ++tile_.block;
        const Range block = blocks_->block(tile_.block);
        tile_.begin = tile_.packed - static_cast<Place>(block.begin);
        if (tile_.begin < static_cast<Place>(block.size)) return;
      }
    }

   private:
    /// Goes on to the second run, where the first one ends.
    __device__ bool has_tile() {
      if constexpr (runs == 2)
        if (tile_.packed >= end_ && then_.begin != then_.end) {
          tile_ = {0, 0, then_.begin + (tile_.packed - end_)};
          end_ = then_.end;
          then_.begin = then_.end;
        }
      return tile_.packed < end_;
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
    Tile tile_;
  };

  Tiles() = default;
  __device__ Tiles(const LaneBlocks& blocks, const Runs& all)
      : first_(blocks, {0, 0, static_cast<Place>(all.first.begin) + threadIdx.x / threads * elements},
               static_cast<Place>(all.first.begin + all.first.size), all.second) {
    first_.settle();
  }
  /// At this team's first tile.
  [[nodiscard]] __device__ const Iterator& begin() const { return first_; }
  [[nodiscard]] __device__ End end() const { return {}; }
  /// Whether it has one.
  [[nodiscard]] __device__ bool any() const { return first_ != End{}; }

 private:
  [[nodiscard]] __device__ static Place stride() { return blockDim.x / threads * elements; }

  Iterator first_;
};

}  // namespace mixcomm::cuda
