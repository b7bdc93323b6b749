// What `automatic` runs where it is learnt: the quickest, on every rank the same.
#include "choice/learnt_choice.hpp"

#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "mixcomm/mixcomm.hpp"
#include "support/spawn.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

using enum Algorithm;
constexpr std::array all{one_shot, two_shot, composed};

/// A team on a machine where each algorithm takes so long: how often each ran in `calls` calls. Members make
/// each call one after the other, in an order that changes.
class Team {
 public:
  explicit Team(int size) {
    std::vector<LearningNotes*> notes;
    for (LearningNotes& each : notes_) notes.push_back(&each);
    notes.resize(static_cast<std::size_t>(size));
    for (int m = 0; m < size; ++m) members_.emplace_back(notes, m);
  }
  std::map<Algorithm, int> run(int calls, const std::map<Algorithm, std::uint64_t>& costs,
                               const LearntChoice::Work& work = {Op::all_reduce_all_gather, false, 4096}) {
    std::map<Algorithm, int> ran;
    for (int call = 0; call < calls; ++call) {
      std::vector<Algorithm> chosen(members_.size());
      for (std::size_t i = 0; i < members_.size(); ++i) {
        const std::size_t m = (i + static_cast<std::size_t>(call)) % members_.size();
        chosen[m] = members_[m].begin(work, all);
      }
      for (std::size_t m = 0; m < members_.size(); ++m) {
        EXPECT_EQ(chosen[m], chosen[0]) << "member " << m << ", call " << call;
        // The last one is the slowest; its neighbours are as quick with any.
        members_[m].note(m + 1 == members_.size() ? costs.at(chosen[m]) : 1);
      }
      ++ran[chosen[0]];
    }
    return ran;
  }

 private:
  std::array<LearningNotes, 3> notes_;
  std::vector<LearntChoice> members_;
};

TEST(LearntChoiceTest, FindsTheQuickestWithinAFewCalls) {
  for (const Algorithm best : all) {
    Team team(3);
    std::map<Algorithm, std::uint64_t> costs{{one_shot, 200}, {two_shot, 200}, {composed, 200}};
    costs[best] = 100;
    EXPECT_GE(team.run(40, costs).at(best), 28) << name(best);
    EXPECT_GT(team.run(640, costs).at(best), 610) << name(best);
    EXPECT_GE(team.run(30, costs).at(best), 28);
  }
}

TEST(LearntChoiceTest, ColdCallsAndInterruptionsDoNotCount) {
  Team team(2);
  const std::map<Algorithm, std::uint64_t> costs{{one_shot, 100}, {two_shot, 300}, {composed, 300}};
  (void)team.run(1, {{one_shot, 5000}, {two_shot, 5000}, {composed, 5000}});
  EXPECT_GT(team.run(120, costs).at(one_shot), 105);
  for (int i = 0; i < 40; ++i) {  // one in ten is interrupted
    (void)team.run(1, {{one_shot, 100'000}, {two_shot, 100'000}, {composed, 100'000}});
    (void)team.run(9, costs);
  }
  EXPECT_GT(team.run(120, costs).at(one_shot), 110);
}

/// What calls take varies far more than what is to be told apart. Whichever is named first.
TEST(LearntChoiceTest, TellsATenthApartWhereCallsVaryByAThird) {
  for (const Algorithm best : all) {
    Team team(2);
    std::uint32_t random = 1;
    const auto next = [&](std::uint64_t below) {
      random = random * 1664525U + 1013904223U;
      return (random >> 16U) % below;
    };
    int right = 0;
    constexpr int calls = 6000;
    for (int call = 0; call < calls; ++call) {
      std::map<Algorithm, std::uint64_t> costs;
      for (const Algorithm each : all)
        costs[each] = (each == best ? 10 : 11) * (85 + next(30)) * (next(20) == 0 ? 30 : 1);
      right += team.run(1, costs).contains(best) ? 1 : 0;
    }
    EXPECT_GT(right, calls * 93 / 100) << name(best);
  }
}

TEST(LearntChoiceTest, BeginsWithTheFirstAndKeepsItWhereOthersAreAsGood) {
  Team team(2);
  EXPECT_EQ(team.run(5, {{one_shot, 100}, {two_shot, 98}, {composed, 99}}),
            (std::map<Algorithm, int>{{one_shot, 5}}));
  EXPECT_GT(team.run(600, {{one_shot, 100}, {two_shot, 98}, {composed, 99}}).at(one_shot), 550);
}

TEST(LearntChoiceTest, NoticesThatTheMachineChanges) {
  Team team(2);
  (void)team.run(300, {{one_shot, 100}, {two_shot, 200}, {composed, 300}});
  (void)team.run(900, {{one_shot, 400}, {two_shot, 200}, {composed, 300}});
  EXPECT_GT(team.run(300, {{one_shot, 400}, {two_shot, 200}, {composed, 300}}).at(two_shot), 270);
}

TEST(LearntChoiceTest, WhatTakesFarLongerIsTriedSeldom) {
  Team team(2);
  (void)team.run(15, {{one_shot, 100}, {two_shot, 900}, {composed, 900}});
  const auto ran = team.run(64 * 12, {{one_shot, 100}, {two_shot, 900}, {composed, 900}});
  EXPECT_LE(ran.at(two_shot) + ran.at(composed), 8);
  EXPECT_GT(ran.at(two_shot), 0);
}

TEST(LearntChoiceTest, EachWorkHasItsOwn) {
  Team team(2);
  const LearntChoice::Work small{Op::all_reduce, false, 100};
  const LearntChoice::Work large{Op::all_reduce, false, 100'000};
  std::map<Algorithm, int> ran_small;
  for (int i = 0; i < 200; ++i) {
    for (const auto& [algorithm, count] : team.run(1, {{one_shot, 1}, {two_shot, 5}, {composed, 9}}, small))
      ran_small[algorithm] += count;
    (void)team.run(1, {{one_shot, 9}, {two_shot, 1}, {composed, 9}}, large);
  }
  EXPECT_GT(ran_small[one_shot], 170);
  EXPECT_GT(team.run(50, {{one_shot, 9}, {two_shot, 1}, {composed, 9}}, large)[two_shot], 45);
}

/// Calls that leave the choice to the library, on more ranks than processors: TP groups with row counts of
/// their own in between, ranks late in turn, blocks without rows. Ranks that chose differently would
/// disagree.
TEST(LearntChoiceTest, RanksAgreeAndBitsStay) {
  if (std::thread::hardware_concurrency() > 7) GTEST_SKIP() << "8 ranks have a processor each here";
  const auto results = spawn(Ranks::threads, 8, [](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap, {.tp = 4, .dp = 2, .workspace_bytes = verify::workspace_bytes});
    verify::Verifier verifier(communicator, 1 << 15);
    const int rank = bootstrap.rank();
    std::uint64_t seed = 0;
    for (int i = 0; i < 300; ++i) {
      if (i * 5 % 8 == rank) std::this_thread::sleep_for(std::chrono::microseconds(50));
      std::vector<std::size_t> rows{2, 3};
      if (i % 10 == 3) rows = {0, 4};
      if (i % 10 == 7) rows = {5, 0};
      for (const Op op : {Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce, Op::all_gather}) {
        const auto buffers = i / 20 % 2 == 0 ? verify::Buffers::plain : verify::Buffers::symmetric;
        if (auto wrong = verifier.run({op, automatic, DType::bf16, buffers, verify::Values::floats, rows,
                                       i % 50 == 0 ? 2048U : 64U, ++seed});
            !wrong.empty())
          return wrong;
      }
      // TP groups learn by themselves: of other sizes, or nothing where they have no rows.
      const auto n = static_cast<std::size_t>(rank / 4 == 0 ? 64 : i % 3 * 4096);
      std::vector<float> x(n, 1.0F);
      std::vector<float> y(n);
      communicator.all_reduce(tensor(x.data(), n / 64, 64), tensor(y.data(), n / 64, 64));
      if (n > 0 && y[n - 1] != 4.0F) return std::string("wrong");
    }
    return std::string();
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
