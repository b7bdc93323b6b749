// Latencies and shares from the times of ranks' steps.
#include "tools/model/step_times.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace mixcomm::tools {
namespace {

using Ranks = std::vector<std::vector<RankStep>>;

/// Two ranks of which the second one comes to everything late, as on a processor that it shares: it has no
/// time of its own between steps, so the mean of the times in collectives is more than the span of a step.
const Ranks late{{{0, 100, {{0, 0}}}, {100, 1000, {{100, 950}}}},
                 {{0, 900, {{0, 0}}}, {900, 1010, {{940, 1005}}}}};

TEST(StepTimes, SharesAreOfRanksTime) {
  LatencyReport report;
  report.add(late);
  const double time = (1000 - 100) + (1010 - 900);
  EXPECT_DOUBLE_EQ(report.collectives_share(), (850 + 65) / time);
  EXPECT_DOUBLE_EQ(report.collectives_share_without_waiting(), (950 - 940 + 65) / time);
  const Json json = report.json();
  EXPECT_EQ(json["decode_steps"], 1);
  EXPECT_DOUBLE_EQ(json["inter_token_p50_us"].get<double>(), 0.11);  // 900 to 1010
  EXPECT_DOUBLE_EQ(json["prefill_ms"].get<double>(), 0.001);         // 900 ns
}

/// However late ranks are: nothing above the whole, and no part above what it is a part of.
TEST(StepTimes, NoShareIsAboveTheWhole) {
  for (int late_rank = 0; late_rank < 3; ++late_rank)
    for (const std::int64_t delay : {0, 10, 1000, 100000}) {
      Ranks ranks(3);
      for (int r = 0; r < 3; ++r) {
        std::int64_t now = r == late_rank ? delay : 0;
        for (int step = 0; step < 4; ++step) {
          RankStep one{now, 0, {}};
          for (int c = 0; c < 3; ++c) {
            const std::int64_t begin = now + 1;
            now = begin + 5 + (r == late_rank ? 0 : delay);
            one.collectives.push_back({begin, now});
          }
          one.end = ++now;
          ranks[static_cast<std::size_t>(r)].push_back(one);
        }
      }
      LatencyReport report;
      report.add(ranks);
      EXPECT_LE(report.collectives_share(), 1);
      EXPECT_LE(report.collectives_share_without_waiting(), report.collectives_share());
      EXPECT_GT(report.collectives_share_without_waiting(), 0);
    }
}

TEST(StepTimes, GoThroughJson) {
  Ranks back;
  for (const auto& rank : late) back.push_back(rank_steps_from(to_json(rank)));
  LatencyReport one;
  LatencyReport two;
  one.add(late);
  two.add(back);
  EXPECT_EQ(one.json(), two.json());
  LatencyReport none;
  none.add({{}, {}});
  EXPECT_TRUE(none.json()["collectives_share"].is_null());
}

TEST(StepTimes, OfAGenerationHoldTheExchangeOfRowCounts) {
  using runner::Clock;
  const auto at = [](int ns) { return Clock::time_point(std::chrono::nanoseconds(ns)); };
  runner::Generated generated;
  generated.exchanges = {{at(5), at(7)}};
  generated.steps = {{at(8), at(20), {{at(9), at(11)}, {at(12), at(15)}}, {}}};
  const auto steps = rank_steps(generated);
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_EQ(steps[0].begin, 5);
  EXPECT_EQ(steps[0].end, 20);
  ASSERT_EQ(steps[0].collectives.size(), 3U);
  EXPECT_EQ(steps[0].collectives[0].begin, 5);
  EXPECT_EQ(steps[0].collectives[0].end, 7);
  EXPECT_EQ(steps[0].collectives[2].end, 15);
}

}  // namespace
}  // namespace mixcomm::tools
