// What both contexts are made of: one lane of one rank, its bounded waits, and access to the caller's
// buffers.
#pragma once

#include "cuda/arguments.hpp"
#include "cuda/numbers.cuh"
#include "cuda/ptx.cuh"

namespace mixcomm::cuda {

/// Elements by which tiles are named: `bytes` bytes of T.
template <class T, int bytes>
inline constexpr int tile_elements = bytes / static_cast<int>(sizeof(T));

using LaneBlocks = BasicBlocks<most_ranks>;

/// A place in what a lane covers in one pass, in elements: fewer than 2^31 (the host sees to it).
using Place = std::uint32_t;

/// A few elements of one block.
struct Tile {
  int block;
  Place begin;   ///< in the covered part of the block
  Place packed;  ///< in all that the pass covers
};

/// A thread's tiles of a packed run, which are dealt to the threads of the lane in turn.
template <int elements>
class Tiles {
 public:
  class Iterator {
   public:
    Iterator() = default;
    __device__ Iterator(const LaneBlocks& blocks, Place at, Place end)
        : blocks_(&blocks), end_(end), tile_{0, 0, at} {
      settle();
    }
    /// At a tile that such an iterator has been at.
    __device__ Iterator(const LaneBlocks& blocks, const Tile& tile, Place end)
        : blocks_(&blocks), end_(end), tile_(tile) {}
    __device__ Tile operator*() const { return tile_; }
    __device__ Iterator& operator++() {
      tile_.packed += blockDim.x * elements;
      settle();
      return *this;
    }
    __device__ bool operator!=(Place end) const { return tile_.packed < end; }

   private:
    /// Finds the block, and skips what only rounds blocks up.
    __device__ void settle() {
      for (; tile_.packed < end_; tile_.packed += blockDim.x * elements) {
        MIXCOMM_ROLLED
        while (tile_.packed >= static_cast<Place>(blocks_->packed_end(tile_.block))) ++tile_.block;
        const Range block = blocks_->block(tile_.block);
        tile_.begin = tile_.packed - static_cast<Place>(block.begin);
        if (tile_.begin < static_cast<Place>(block.size)) return;
      }
    }
    const LaneBlocks* blocks_;
    Place end_;
    Tile tile_;
  };
  Tiles() = default;
  __device__ Tiles(const LaneBlocks& blocks, const Range& run)
      : blocks_(&blocks), end_(static_cast<Place>(run.begin + run.size)) {
    first_ = *Iterator(blocks, static_cast<Place>(run.begin) + threadIdx.x * elements, end_);
  }
  /// This thread's first tile; one behind the end if it has none.
  [[nodiscard]] __device__ const Tile& first() const { return first_; }
  [[nodiscard]] __device__ bool any() const { return first_.packed < end_; }
  [[nodiscard]] __device__ Iterator begin() const { return {*blocks_, first_, end_}; }
  [[nodiscard]] __device__ Place end() const { return end_; }

 private:
  const LaneBlocks* blocks_;
  Tile first_;
  Place end_;
};

__device__ inline std::uint32_t bits_of(float x) {
  return __float_as_uint(x);
}
__device__ inline std::uint32_t bits_of(bf16 x) {
  return x.bits;
}
__device__ inline std::uint32_t bits_of(fp16 x) {
  return x.bits;
}
__device__ inline void set_bits(float& x, std::uint32_t bits) {
  x = __uint_as_float(bits);
}
__device__ inline void set_bits(bf16& x, std::uint32_t bits) {
  x.bits = static_cast<std::uint16_t>(bits);
}
__device__ inline void set_bits(fp16& x, std::uint32_t bits) {
  x.bits = static_cast<std::uint16_t>(bits);
}

/// `words` words of the caller's buffer, of any alignment, which may end before.
template <class T, int words>
class UserTile {
  static constexpr int per_word = 4 / static_cast<int>(sizeof(T));

 public:
  UserTile() = default;
  /// From element i of a block on.
  __device__ UserTile(T* block, std::size_t block_size, Place i)
      : begin_(block + i), size_(static_cast<Place>(block_size) - i) {
    if (size_ >= words * per_word && reinterpret_cast<std::uintptr_t>(begin_) % (words * 4) == 0)
      size_ = whole;
  }

  __device__ Words<words> load() const {
    Words<words> result;
    if (size_ != whole) [[unlikely]] {
#pragma unroll
      for (int w = 0; w < words; ++w) {
        result.word[w] = 0;
#pragma unroll
        for (int e = 0; e < per_word; ++e) {
          const Place k = w * per_word + e;
          if (k < size_) result.word[w] |= bits_of(begin_[k]) << (e * sizeof(T) * 8);
        }
      }
      return result;
    }
    if constexpr (words == 4) {
      const uint4 all = *reinterpret_cast<const uint4*>(begin_);
      result.word[0] = all.x, result.word[1] = all.y, result.word[2] = all.z, result.word[3] = all.w;
    } else {
      const uint2 all = *reinterpret_cast<const uint2*>(begin_);
      result.word[0] = all.x, result.word[1] = all.y;
    }
    return result;
  }

  __device__ void store(const Words<words>& value) const {
    if (size_ != whole) [[unlikely]] {
#pragma unroll
      for (int w = 0; w < words; ++w)
#pragma unroll
        for (int e = 0; e < per_word; ++e) {
          const Place k = w * per_word + e;
          if (k < size_) set_bits(begin_[k], value.word[w] >> (e * sizeof(T) * 8));
        }
      return;
    }
    if constexpr (words == 4)
      *reinterpret_cast<uint4*>(begin_) =
          make_uint4(value.word[0], value.word[1], value.word[2], value.word[3]);
    else
      *reinterpret_cast<uint2*>(begin_) = make_uint2(value.word[0], value.word[1]);
  }

 private:
  static constexpr Place whole = ~Place{0};  ///< all of it is there, and aligned
  T* begin_;
  Place size_;  ///< of what is there, or more
};

/// The first failure of a rank is described to its host; all of its lanes leave.
__device__ inline void record_failure(const Arguments& a, FailureRecord::Kind kind, std::uint64_t missing,
                                      std::uint64_t step) {
  RankMemory& memory = *a.memory;
  if (atomicExch(&memory.failure_claimed, 1U) == 0) {
    volatile FailureRecord& record = *a.failure;
    record.kind = kind;
    record.op = a.op;
    record.lane = blockIdx.x;
    record.number = a.number;
    record.step = step;
    record.missing = missing;
    __threadfence_system();
    record.complete = 1;
  }
  LaneState* const lanes = memory.lanes[0];
#pragma unroll 1
  for (int i = 0; i < team_kinds * most_lanes; ++i)
    *static_cast<volatile std::uint32_t*>(&lanes[i].failed) = 1;
  __threadfence_system();
}

class Lane {
 public:
  __device__ Lane(const Arguments& arguments, const LaneBlocks& blocks) : a_(arguments), b_(blocks) {}

  __device__ void set_state(const LaneState& state) { state_ = state; }
  /// What the lane's next operation begins with.
  [[nodiscard]] __device__ std::uint64_t packets() const { return state_.packets + passes_; }
  [[nodiscard]] __device__ std::uint32_t barriers() const { return state_.barriers + barriers_; }

 protected:
  /// Where the covered part of block d begins in a tensor with all blocks, or with one.
  template <bool all_blocks>
  [[nodiscard]] __device__ std::size_t start(int d) const {
    return b_.start(all_blocks ? Coordinates::all_blocks : Coordinates::one_block, d);
  }
  /// A tile of the caller's input, or output.
  template <class T, int words, bool gathers>
  [[nodiscard]] __device__ UserTile<const T, words> input_tile(const Tile& tile) const {
    return {static_cast<const T*>(a_.in) + start<!gathers>(tile.block), b_.size(tile.block), tile.begin};
  }
  template <class T, int words, bool gathers>
  [[nodiscard]] __device__ UserTile<T, words> output_tile(const Tile& tile) const {
    return {static_cast<T*>(a_.out) + start<gathers>(tile.block), b_.size(tile.block), tile.begin};
  }
  /// Whether this rank may write to others. Looked at for the first time as late as can be: it was just
  /// loaded.
  [[nodiscard]] __device__ bool ok() const { return ok_ && state_.failed == 0; }
  [[nodiscard]] __device__ int me() const { return a_.grid.world.member; }
  [[nodiscard]] __device__ int members() const { return a_.grid.world.size; }
  /// The workspace of member m of the operation's team.
  [[nodiscard]] __device__ std::byte* workspace(int m) const {
    return a_.workspace.of(a_.grid.world.rank(m));
  }

  /// Whether a wait that has not ended yet may go on. Costs a decrement as long as peers are fast: the clock
  /// is read for the first time after some thousand looks, and the deadline counts from there.
  __device__ bool may_wait() {
#if defined(MIXCOMM_UNBOUNDED_WAITS)
    return true;
#else
    if (--patience_ > 0) return true;
    patience_ = looks_between_clocks;
    const auto now = static_cast<std::uint32_t>(ptx::nanoseconds() >> 20U);  // 1.05 ms
    if (deadline_ == 0) deadline_ = now + a_.timeout;
    return static_cast<std::int32_t>(now - deadline_) < 0 &&
           ptx::load_relaxed(&a_.memory->lanes[a_.team][blockIdx.x].failed) == 0;
#endif
  }

  /// What is waited for next has a deadline of its own.
  __device__ void waited() {
    patience_ = looks_between_clocks;
    deadline_ = 0;
  }

  /// This thread has waited in vain for the ranks of `missing`, bit m for member m; 0: another one has found
  /// out first.
  __device__ void give_up(std::uint64_t missing) {
    ok_ = false;
    fail(FailureRecord::timeout, missing);
  }

 public:
  __device__ void fail(FailureRecord::Kind kind, std::uint64_t missing) {
    record_failure(a_, kind, missing, packets() + barriers());
  }

 protected:
  const Arguments& a_;
  const LaneBlocks& b_;
  LaneState state_{};  ///< as loaded: copied nowhere, so that nothing waits for it before it is looked at
  std::uint32_t passes_ = 0;
  std::uint32_t barriers_ = 0;
  std::uint32_t deadline_ = 0;
  int patience_ = looks_between_clocks;
  static constexpr int looks_between_clocks = 4096;
  bool ok_ = true;  ///< of this thread: no wait of it has failed. One that has failed writes to no other rank
                    ///< any more.
};

}  // namespace mixcomm::cuda
