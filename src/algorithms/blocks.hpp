// Which elements one pass of an operation covers, and how ranks share them out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mixcomm/grid.hpp"

namespace mixcomm {

/// A run of elements.
struct Range {
  std::size_t begin = 0;
  std::size_t size = 0;
};

/// Pieces and shares are cut at multiples of this number of elements, unless cut() is told another one. So
/// ranks write different cache lines, and packs of 16 bytes stay whole.
inline constexpr std::size_t granule = 64;

[[nodiscard]] MIXCOMM_HD constexpr std::size_t round_up(std::size_t n, std::size_t to) {
  return (n + to - 1) / to * to;
}

/// The length of each of `members` nearly equal shares of `size` elements: a multiple of `step`. The last
/// shares may be shorter. `size` is fewer than 2^32 steps, so that the division has 32 bits: one of 64 bits
/// takes long on a GPU.
template <class Size>
[[nodiscard]] MIXCOMM_HD constexpr Size share_of(Size size, int members, Size step = granule) {
  const auto runs = static_cast<std::uint32_t>((size + step - 1) / step);
  const auto count = static_cast<std::uint32_t>(members);
  return static_cast<Size>((runs + count - 1) / count) * step;
}

/// Piece `i` of `size` elements cut into pieces of `piece`.
[[nodiscard]] MIXCOMM_HD constexpr Range piece_of(std::size_t size, std::size_t piece, int i) {
  const std::size_t begin = piece * static_cast<std::size_t>(i);
  if (begin >= size) return {size, 0};
  return {begin, begin + piece < size ? piece : size - begin};
}

/// Share `member` of `members` near equal ones. The first is the largest.
template <class Size>
[[nodiscard]] MIXCOMM_HD constexpr Range part(Size size, int member, int members, Size step = granule) {
  return piece_of(size, share_of(size, members, step), member);
}

/// Where block d begins in a buffer, in elements. A pass covers a run of each DP rank's block.
enum class Coordinates {
  one_block,   ///< a [rows[d] x hidden] tensor: block d alone
  all_blocks,  ///< a [sum(rows) x hidden] tensor
  packed,      ///< a workspace that holds only this pass: the covered part of block 0, then of block 1, ...
};

/// The blocks of one operation, one per DP rank, at most `most` of them. Trivial to construct, so that it can
/// lie in a GPU's shared memory; assign() and cut() come first.
///
/// Each block is cut into as many pieces as there are passes; a pass covers one piece of each. Packed, piece
/// after piece, they fill a workspace. All pieces of a block take the same room there, whether the last one
/// needs it or not, so only the number of the piece changes from pass to pass.
template <int most>
class BasicBlocks {
 public:
  BasicBlocks() = default;
  /// `elements(d)`, d < dp: the size of each block.
  template <class Elements>
  BasicBlocks(int dp, const Elements& elements) {
    assign(dp, elements);
  }
  template <int other>
  explicit BasicBlocks(const BasicBlocks<other>& blocks) {
    assign(blocks.dp(), [&](int d) { return blocks.full_size(d); });
  }

  template <class Elements>
  MIXCOMM_HD void assign(int dp, const Elements& elements) {
    dp_ = dp;
    offset_[0] = 0;
    MIXCOMM_ROLLED
    for (int d = 0; d < dp; ++d) offset_[d + 1] = offset_[d] + elements(d);
  }

  /// Cuts each block into pieces, of fewer than 2^31 elements together, at multiples of `step` elements.
  MIXCOMM_HD void cut(int pieces, std::size_t step = granule) {
    step_ = static_cast<std::uint32_t>(step);
    packed_[0] = 0;
    MIXCOMM_ROLLED
    for (int d = 0; d < dp_; ++d) {
      size_[d] = static_cast<std::uint32_t>(share_of(full_size(d), pieces, step));
      packed_[d + 1] = packed_[d] + size_[d];
    }
  }
  /// Takes over block d of `from`, which has been cut, and covers piece `piece` of it: for threads that share
  /// the blocks out among them. d == dp() is one of them, the end.
  MIXCOMM_HD void take(const BasicBlocks& from, int d, int piece) {
    if (d == 0) {
      dp_ = from.dp_;
      step_ = from.step_;
    }
    offset_[d] = from.offset_[d];
    packed_[d] = from.packed_[d];
    if (d == from.dp_) return;
    size_[d] = from.size_[d];
    const Range covered = piece_of(from.full_size(d), from.size_[d], piece);
    begin_[d] = covered.begin;
    covered_[d] = static_cast<std::uint32_t>(covered.size);
  }
  /// Covers piece `piece` of each block from here on.
  MIXCOMM_HD void cover(int piece) {
    MIXCOMM_ROLLED
    for (int d = 0; d < dp_; ++d) {
      const Range covered = piece_of(full_size(d), size_[d], piece);
      begin_[d] = covered.begin;
      covered_[d] = static_cast<std::uint32_t>(covered.size);
    }
  }
  /// Covers piece `piece(d)` of block d from here on.
  template <class Piece>
  MIXCOMM_HD void cover_each(const Piece& piece) {
    MIXCOMM_ROLLED
    for (int d = 0; d < dp_; ++d) {
      const Range covered = piece_of(full_size(d), size_[d], piece(d));
      begin_[d] = covered.begin;
      covered_[d] = static_cast<std::uint32_t>(covered.size);
    }
  }

  [[nodiscard]] MIXCOMM_HD int dp() const { return dp_; }
  /// The number of elements that the blocks were cut at multiples of.
  [[nodiscard]] MIXCOMM_HD std::size_t step() const { return step_; }
  /// The size of block d, covered or not; of all blocks together.
  [[nodiscard]] MIXCOMM_HD std::size_t full_size(int d) const { return offset_[d + 1] - offset_[d]; }
  [[nodiscard]] MIXCOMM_HD std::size_t elements() const { return offset_[dp_]; }
  /// Where block d begins in a tensor with all blocks.
  [[nodiscard]] MIXCOMM_HD std::size_t offset(int d) const { return offset_[d]; }

  /// How many elements of block d this pass covers.
  [[nodiscard]] MIXCOMM_HD std::size_t size(int d) const { return covered_[d]; }
  /// What a packed workspace needs: whole steps of the cut for each block.
  [[nodiscard]] MIXCOMM_HD std::size_t packed_size() const { return packed_[dp_]; }

  // Runs of the packed workspace, which name elements of several blocks at once:

  /// All that this pass covers.
  [[nodiscard]] MIXCOMM_HD Range everything() const { return {0, packed_[dp_]}; }
  /// What it covers of block d.
  [[nodiscard]] MIXCOMM_HD Range block(int d) const { return {packed_[d], size(d)}; }
  /// Where the next block begins.
  [[nodiscard]] MIXCOMM_HD std::size_t packed_end(int d) const { return packed_[d + 1]; }
  /// The share of `member`, if `members` share all that this pass covers nearly equally. A share may begin in
  /// one block and end in another, so ranks have equal work also where blocks are uneven.
  [[nodiscard]] MIXCOMM_HD Range share(int member, int members) const {
    return part(packed_[dp_], member, members, step_);
  }
  /// What falls to `member` of `members` of block d alone, near equally: where what belongs to the rows of a
  /// block is at hand on the ranks of its DP group.
  [[nodiscard]] MIXCOMM_HD Range share_of_block(int d, int member, int members) const {
    const Range of_block = part(size(d), member, members, static_cast<std::size_t>(step_));
    return {packed_[d] + of_block.begin, of_block.size};
  }
  /// The elements of block d that lie in `run`, counted from where this pass's piece of the block begins.
  [[nodiscard]] MIXCOMM_HD Range overlap(const Range& run, int d) const {
    const std::size_t covered = size(d);
    const std::size_t begin = run.begin > packed_[d] ? run.begin - packed_[d] : 0;
    const std::size_t end = run.begin + run.size > packed_[d] ? run.begin + run.size - packed_[d] : 0;
    const std::size_t limit = end < covered ? end : covered;
    return begin < limit ? Range{begin, limit - begin} : Range{};
  }

  /// Where the covered part of block d begins.
  [[nodiscard]] MIXCOMM_HD std::size_t start(Coordinates coordinates, int d) const {
    if (coordinates == Coordinates::packed) return packed_[d];
    return (coordinates == Coordinates::all_blocks ? offset_[d] : 0) + begin_[d];
  }

 private:
  int dp_;
  std::uint32_t step_;  ///< of the cut
  std::size_t offset_[most + 1];
  std::size_t begin_[most];
  std::uint32_t covered_[most];
  std::uint32_t size_[most];  ///< of a piece
  std::uint32_t packed_[most + 1];
};

using Blocks = BasicBlocks<max_ranks>;

/// The fewest passes of each of `lanes` lanes, each covering one piece, that fit a packed workspace of
/// `capacity` elements (at least `dp` steps of the cut, fewer than 2^31). The same on all ranks, since all
/// know the sizes. Leaves `blocks` cut so: the first lane has the first pieces.
[[nodiscard]] inline int passes_for(Blocks& blocks, std::size_t capacity, std::size_t step = granule,
                                    int lanes = 1) {
  const std::size_t at_once = capacity * static_cast<std::size_t>(lanes);
  const std::size_t least = (blocks.elements() + at_once - 1) / at_once;
  for (auto passes = static_cast<int>(least > 0 ? least : 1);; ++passes) {
    blocks.cut(passes * lanes, step);
    if (blocks.packed_size() <= capacity) return passes;
  }
}

}  // namespace mixcomm
