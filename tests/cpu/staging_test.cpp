// With which stores input is staged: learnt from what passes take.
#include "cpu/staging.hpp"

#include <gtest/gtest.h>

namespace mixcomm::cpu {
namespace {

/// A machine on which one kind of stores is quicker; how many of `calls` used the streamed ones.
int streamed_of(StagingStores& staging, int calls, std::uint64_t cached_cost, std::uint64_t streamed_cost,
                const StagingStores::Work& work = {0, 1 << 16}) {
  int streamed = 0;
  for (int call = 0; call < calls; ++call) {
    const Stores stores = staging.choose(work);
    streamed += stores == Stores::streamed ? 1 : 0;
    staging.note(work, stores, stores == Stores::streamed ? streamed_cost : cached_cost);
  }
  return streamed;
}

TEST(Staging, TakesTheQuickerStoresAndTriesTheOthersNowAndThen) {
  StagingStores streamed_is_quicker;
  EXPECT_EQ(streamed_of(streamed_is_quicker, 320, 400, 100), 320 - 10 - 3);
  StagingStores cached_is_quicker;
  const int streamed = streamed_of(cached_is_quicker, 320, 100, 200);
  EXPECT_EQ(streamed, 3 + 10);  // of the first ones, and then in each trial
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
  EXPECT_EQ(staging.choose({0, 1 << 16}), Stores::cached);
}

TEST(Staging, SizesAndKindsOfWorkAreApart) {
  StagingStores staging;
  (void)streamed_of(staging, 320, 100, 200);
  EXPECT_EQ(staging.choose({0, 1 << 12}), Stores::streamed);
  EXPECT_EQ(staging.choose({11, 1 << 16}), Stores::streamed);
}

/// Calls of several kinds in turn: each has its trials.
TEST(Staging, EachWorkHasItsTrials) {
  StagingStores staging;
  int cached = 0;
  for (std::size_t call = 0; call < 640; ++call) {
    const StagingStores::Work work{call % 2, 1 << 16};
    const Stores stores = staging.choose(work);
    if (work.kind == 0) cached += stores == Stores::cached ? 1 : 0;
    staging.note(work, stores, stores == Stores::streamed ? 400 : 100);
  }
  EXPECT_GT(cached, 270);
}

}  // namespace
}  // namespace mixcomm::cpu
