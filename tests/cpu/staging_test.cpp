// With which stores input is staged: learnt from what passes take.
#include "cpu/staging.hpp"

#include <gtest/gtest.h>

namespace mixcomm::cpu {
namespace {

/// A machine on which one kind of stores is quicker; how many of `passes` used the streamed ones.
int streamed_of(StagingStores& staging, int passes, std::uint64_t cached_cost, std::uint64_t streamed_cost,
                const StagingStores::Work& work = {0, 1 << 16}) {
  int streamed = 0;
  for (int pass = 0; pass < passes; ++pass) {
    const Stores stores = staging.choose(work, static_cast<std::size_t>(pass));
    streamed += stores == Stores::streamed ? 1 : 0;
    staging.note(work, stores, stores == Stores::streamed ? streamed_cost : cached_cost);
  }
  return streamed;
}

TEST(Staging, TakesTheQuickerStoresAndTriesTheOthersNowAndThen) {
  StagingStores streamed_is_quicker;
  EXPECT_EQ(streamed_of(streamed_is_quicker, 320, 400, 100), 310);
  StagingStores cached_is_quicker;
  const int streamed = streamed_of(cached_is_quicker, 320, 100, 200);
  EXPECT_EQ(streamed, 31 + 9);  // until the first trial, and then in each
}

TEST(Staging, NoticesThatTheMachineChanges) {
  StagingStores staging;
  (void)streamed_of(staging, 320, 100, 200);
  EXPECT_GT(streamed_of(staging, 320, 400, 150), 250);
  EXPECT_LT(streamed_of(staging, 640, 100, 200), 100);
}

TEST(Staging, OneInterruptionIsNoChange) {
  StagingStores staging;
  (void)streamed_of(staging, 320, 100, 200);
  staging.note({0, 1 << 16}, Stores::cached, 1'000'000);
  EXPECT_EQ(staging.choose({0, 1 << 16}, 0), Stores::cached);
}

TEST(Staging, SizesAndKindsOfWorkAreApart) {
  StagingStores staging;
  (void)streamed_of(staging, 320, 100, 200);
  EXPECT_EQ(staging.choose({0, 1 << 12}, 0), Stores::streamed);
  EXPECT_EQ(staging.choose({11, 1 << 16}, 0), Stores::streamed);
}

}  // namespace
}  // namespace mixcomm::cpu
