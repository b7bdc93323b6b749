// Which elements one pass of an operation covers, and how ranks share them out.
#pragma once

#include <cstddef>

#include "mixcomm/grid.hpp"

namespace mixcomm {

/// A run of elements.
struct Range {
  std::size_t begin = 0;
  std::size_t size = 0;
};

/// The share of member `team.member` in `size` elements: near equal, cut at multiples of 64 elements, so that
/// ranks write different cache lines and packs stay aligned.
[[nodiscard]] MIXCOMM_HD constexpr Range part(std::size_t size, const Team& team) {
  constexpr std::size_t granule = 64;
  const auto members = static_cast<std::size_t>(team.size);
  const std::size_t share = ((size + members - 1) / members + granule - 1) / granule * granule;
  const std::size_t begin = share * static_cast<std::size_t>(team.member);
  if (begin >= size) return {size, 0};
  return {begin, begin + share < size ? share : size - begin};
}

/// Where block d begins in a buffer, in elements. A pass covers elements [begin, end) of each DP rank's
/// block.
enum class Coordinates {
  one_block,   ///< a [rows[d] x hidden] tensor: block d alone
  all_blocks,  ///< a [sum(rows) x hidden] tensor
  packed,      ///< a workspace that holds only this pass: the covered part of block 0, then of block 1, ...
};

class Blocks {
 public:
  /// `elements[d]`, d < dp: the size of each block. Covers all of every block.
  template <class Elements>
  Blocks(int dp, const Elements& elements) : dp_(dp) {
    for (int d = 0; d < dp; ++d) offset_[d + 1] = offset_[d] + elements(d);
    cover(0, offset_[dp]);
  }

  /// Narrows the pass to elements [begin, end) of each block, so far as the block has them.
  void cover(std::size_t begin, std::size_t end) {
    begin_ = begin;
    for (int d = 0; d < dp_; ++d) {
      const std::size_t n = offset_[d + 1] - offset_[d];
      const std::size_t covered = begin >= n ? 0 : (n < end ? n : end) - begin;
      packed_[d + 1] = packed_[d] + covered;
    }
  }

  [[nodiscard]] MIXCOMM_HD int dp() const { return dp_; }
  /// How many elements of block d this pass covers.
  [[nodiscard]] MIXCOMM_HD std::size_t size(int d) const { return packed_[d + 1] - packed_[d]; }
  /// ... and of all blocks.
  [[nodiscard]] MIXCOMM_HD std::size_t total() const { return packed_[dp_]; }
  /// The size of block d, covered or not.
  [[nodiscard]] MIXCOMM_HD std::size_t full_size(int d) const { return offset_[d + 1] - offset_[d]; }

  /// Where the covered part of block d begins.
  [[nodiscard]] MIXCOMM_HD std::size_t start(Coordinates coordinates, int d) const {
    switch (coordinates) {
      case Coordinates::one_block:
        return begin_;
      case Coordinates::all_blocks:
        return offset_[d] + begin_;
      case Coordinates::packed:
        break;
    }
    return packed_[d];
  }

 private:
  int dp_;
  std::size_t begin_ = 0;
  std::size_t offset_[max_ranks + 1] = {};
  std::size_t packed_[max_ranks + 1] = {};
};

}  // namespace mixcomm
