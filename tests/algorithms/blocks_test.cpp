// How blocks are cut into passes, pieces and shares.
#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

#include "algorithms/blocks.hpp"

namespace mixcomm::test {
namespace {

TEST(Blocks, PartsCoverEverythingOnce) {
  for (const std::size_t size : {0UL, 1UL, 63UL, 64UL, 65UL, 1000UL, 4096UL})
    for (int n = 1; n <= 8; ++n) {
      std::size_t next = 0;
      for (int m = 0; m < n; ++m) {
        const Range r = part(size, m, n);
        if (r.size == 0) continue;
        EXPECT_EQ(r.begin, next);
        next = r.begin + r.size;
      }
      EXPECT_EQ(next, size);
    }
}

const std::vector<std::vector<std::size_t>>& block_sizes() {
  static const std::vector<std::vector<std::size_t>> sizes = {{0},
                                                              {1},
                                                              {64},
                                                              {1000},
                                                              {0, 0},
                                                              {7, 0, 65},
                                                              {4096, 64, 1},
                                                              {63, 64, 65, 129},
                                                              {0, 5000, 0, 0, 3},
                                                              {128, 128, 128}};
  return sizes;
}

Blocks blocks_of(const std::vector<std::size_t>& sizes) {
  return {static_cast<int>(sizes.size()), [&](int d) { return sizes[static_cast<std::size_t>(d)]; }};
}

TEST(Blocks, PiecesCoverEveryBlockOnceAndPackInGranules) {
  for (const auto& sizes : block_sizes())
    for (const int pieces : {1, 2, 3, 7, 64}) {
      Blocks blocks = blocks_of(sizes);
      std::vector<std::size_t> next(sizes.size());
      for (int piece = 0; piece < pieces; ++piece) {
        blocks.cut(pieces);
        blocks.cover(piece);
        std::size_t packed = 0;
        std::size_t before = 0;
        for (int d = 0; d < blocks.dp(); ++d) {
          const auto block = static_cast<std::size_t>(d);
          EXPECT_EQ(blocks.full_size(d), sizes[block]);
          if (blocks.size(d) != 0) {
            EXPECT_EQ(blocks.start(Coordinates::one_block, d), next[block]);
            EXPECT_EQ(blocks.start(Coordinates::all_blocks, d), before + next[block]);
          }
          EXPECT_EQ(blocks.start(Coordinates::packed, d), packed);
          EXPECT_EQ(blocks.block(d).begin, packed);
          EXPECT_EQ(blocks.block(d).size, blocks.size(d));
          EXPECT_EQ(blocks.overlap(blocks.everything(), d).size, blocks.size(d));
          for (int other = 0; other < blocks.dp(); ++other)
            EXPECT_EQ(blocks.overlap(blocks.block(other), d).size, other == d ? blocks.size(d) : 0);
          EXPECT_EQ(packed % granule, 0U);
          next[block] += blocks.size(d);
          EXPECT_GE(blocks.packed_end(d) - packed, blocks.size(d));
          packed = blocks.packed_end(d);
          before += sizes[block];
        }
        EXPECT_EQ(blocks.packed_size(), packed);
        EXPECT_EQ(blocks.elements(), before);
      }
      EXPECT_EQ(next, sizes) << pieces << " pieces";
    }
}

TEST(Blocks, SharesOfAllMembersHoldEveryElementOnce) {
  for (const auto& sizes : block_sizes())
    for (const int pieces : {1, 3})
      for (int members = 1; members <= 16; ++members) {
        Blocks blocks = blocks_of(sizes);
        for (int piece = 0; piece < pieces; ++piece) {
          blocks.cut(pieces);
          blocks.cover(piece);
          const std::size_t fair = part(blocks.packed_size(), 0, members).size;
          std::vector<std::size_t> shared(static_cast<std::size_t>(members));
          for (int d = 0; d < blocks.dp(); ++d) {
            std::vector<int> times(blocks.size(d));
            for (int m = 0; m < members; ++m) {
              const Range share = blocks.overlap(blocks.share(m, members), d);
              if (share.size == 0) continue;
              EXPECT_EQ(share.begin % granule, 0U);
              ASSERT_LE(share.begin + share.size, blocks.size(d));
              for (std::size_t i = 0; i < share.size; ++i) ++times[share.begin + i];
              shared[static_cast<std::size_t>(m)] += share.size;
            }
            EXPECT_EQ(times, std::vector<int>(blocks.size(d), 1)) << members << " members, block " << d;
          }
          for (const std::size_t each : shared) EXPECT_LE(each, fair);
        }
      }
}

TEST(Blocks, PassesFitTheWorkspaceAndAreFew) {
  for (const auto& sizes : block_sizes())
    for (const std::size_t granules : {5UL, 6UL, 16UL, 1000UL}) {
      const std::size_t capacity = granules * granule;  // five blocks at most, each of at least a granule
      Blocks blocks = blocks_of(sizes);
      const int passes = passes_for(blocks, capacity);
      for (int pass = 0; pass < passes; ++pass) {
        blocks.cover(pass);
        EXPECT_LE(blocks.packed_size(), capacity);
      }
      if (passes == 1) continue;
      blocks.cut(passes - 1);
      EXPECT_GT(blocks.packed_size(), capacity) << passes << " passes where fewer would do";
    }
}

TEST(Blocks, PassesOfLanesFitTheirSlicesAndAreAsMany) {
  for (const auto& sizes : block_sizes())
    for (const int lanes : {2, 3, 8}) {
      const std::size_t capacity = 6 * granule;
      Blocks blocks = blocks_of(sizes);
      const int passes = passes_for(blocks, capacity, granule, lanes);
      std::size_t covered = 0;
      for (int piece = 0; piece < passes * lanes; ++piece) {
        blocks.cover(piece);
        EXPECT_LE(blocks.packed_size(), capacity);
        for (int d = 0; d < blocks.dp(); ++d) covered += blocks.size(d);
      }
      EXPECT_EQ(covered, blocks.elements());
      if (passes == 1) continue;
      blocks.cut((passes - 1) * lanes);
      EXPECT_GT(blocks.packed_size(), capacity) << passes << " passes where fewer would do";
    }
}

}  // namespace
}  // namespace mixcomm::test
