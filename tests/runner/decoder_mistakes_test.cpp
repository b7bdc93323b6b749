// What must not work: a reduction left out, layouts and calls that break a rule.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <algorithm>

#include "mixcomm/error.hpp"
#include "runner/decoder_test_hook.hpp"
#include "runner/tiny_model.hpp"
#include "verify/plan_mutants.hpp"

namespace mixcomm::runner::test {
namespace {

using Edit = std::function<bool(Boundary&, const Parallelism&)>;

constexpr Parallelism two_by_two{2, 2, 2, 2};

/// How many of the continuations' tokens the ranks would have chosen themselves.
struct Tally {
  std::size_t right = 0;
  std::size_t all = 0;
};

/// Feeds each DP rank its half of the prompts with their continuations, in one step. Fed, not generated:
/// ranks that compute nonsense would disagree about row counts. All prompts, because with half of the experts
/// missing this model still continues the plainest ones rightly.
Tally tally(const Edit& edit) {
  const TinyModel& model = TinyModel::get();
  std::vector<std::vector<int>> texts;
  std::vector<std::size_t> rows(2, 0);
  for (const auto& prompt : model.prompts) {
    texts.push_back(prompt.ids);
    texts.back().insert(texts.back().end(), prompt.continuation.begin(), prompt.continuation.end());
    rows[(texts.size() - 1) % 2] += texts.back().size();
  }
  std::vector<Tally> tallies(static_cast<std::size_t>(two_by_two.world()));
  run_threads(two_by_two.world(), [&](Bootstrap& bootstrap) {
    Rank rank(bootstrap, two_by_two, {});
    DecoderTestHook::edit(rank.decoder, edit, two_by_two);
    std::vector<SequenceInput> inputs;
    for (auto i = static_cast<std::size_t>(rank.communicator.grid().dp.member); i < texts.size(); i += 2) {
      inputs.push_back({i, texts[i]});
    }
    auto logits = rank.decoder.step(inputs, rows, true);
    Tally& mine = tallies[static_cast<std::size_t>(bootstrap.rank())];
    const std::size_t vocab_size = model.config.vocab_size;
    for (const SequenceInput& input : inputs) {
      for (std::size_t i = model.prompts[input.sequence].ids.size(); i < input.tokens.size(); ++i) {
        const auto before = logits.subspan((i - 1) * vocab_size, vocab_size);
        const auto best = std::max_element(before.begin(), before.end()) - before.begin();
        mine.right += static_cast<std::size_t>(best == input.tokens[i] ? 1 : 0);
        ++mine.all;
      }
      logits = logits.subspan(input.tokens.size() * vocab_size);
    }
  });
  Tally sum;
  for (const Tally& each : tallies) {
    sum.right += each.right;
    sum.all += each.all;
  }
  return sum;
}

TEST(DecoderMistakes, TheTestItselfSeesRightTokens) {
  const auto [right, all] = tally({});
  EXPECT_EQ(right, all);
}

/// Of the planner's seeded mistakes, those that this model's boundaries can have.
TEST(DecoderMistakes, EachWrongRuleGivesWrongTokens) {
  for (const char* name :
       {"the sum over attn_tp left out, rows only gathered",
        "the sum after the experts left out, own rows only taken",
        "a reduce-scatter over attn_dp alone (attn_dp = moe_ep > 1 and attn_tp = moe_tp > 1)",
        "an all-reduce over attn_tp alone after the experts", "the residual added on every TP rank"}) {
    const auto [right, all] = tally(verify::plan_mutant(name).edit);
    RecordProperty(name, fmt::format("{} of {}", right, all));
    EXPECT_LT(right, all) << name;
  }
}

/// The message of the InvalidArgument that every rank must throw ("" if one threw none).
std::string refusal_of_all(int world, const std::function<void(Bootstrap&)>& fn) {
  std::vector<std::string> messages(static_cast<std::size_t>(world));
  run_threads(world, [&](Bootstrap& bootstrap) {
    try {
      fn(bootstrap);
    } catch (const InvalidArgument& error) {
      messages[static_cast<std::size_t>(bootstrap.rank())] = error.what();
    }
  });
  for (const auto& message : messages) {
    if (message.empty()) return "";
  }
  return messages[0];
}

void make(Bootstrap& bootstrap, const Parallelism& parallelism) {
  Rank rank(bootstrap, parallelism, {});
}

TEST(DecoderMistakes, LayoutsThatDoNotDivide) {
  for (const auto& bad : {Parallelism{3, 1, 1, 3}, Parallelism{3, 1, 3, 1}, Parallelism{1, 3, 3, 1},
                          Parallelism{1, 3, 1, 3}, Parallelism{2, 1, 1, 1}, Parallelism{1, 2, 4, 2}}) {
    EXPECT_NE(refusal_of_all(bad.world(), [&](Bootstrap& bootstrap) { make(bootstrap, bad); }), "")
        << to_string(bad);
  }
}

TEST(DecoderMistakes, AnotherGridThanTheCommunicators) {
  const auto message = refusal_of_all(4, [](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap, {.tp = 4, .dp = 1});
    const Decoder decoder(TinyModel::get().config, TinyModel::get().weights, two_by_two, communicator, {});
  });
  EXPECT_NE(message.find("attn_tp 2 x attn_dp 2"), std::string::npos) << message;
  EXPECT_NE(message.find("tp 4 x dp 1"), std::string::npos) << message;
}

TEST(DecoderMistakes, Fp16) {
  const auto message =
      refusal_of_all(1, [](Bootstrap& bootstrap) { const Rank rank(bootstrap, {}, {.dtype = DType::fp16}); });
  EXPECT_NE(message.find("fp16"), std::string::npos) << message;
}

struct BadStep {
  std::string name;
  std::vector<std::vector<int>> tokens;
  std::vector<std::size_t> rows;
  std::string said;  ///< part of the message
};

TEST(DecoderMistakes, Steps) {
  run_threads(1, [](Bootstrap& bootstrap) {
    Rank rank(bootstrap, {}, {.max_rows = 8});
    const std::vector<BadStep> steps{
        {"too many rows", {std::vector<int>(9, 5)}, {9}, "max_rows is 8; set it to at least 9"},
        {"wrong count", {{1, 2}}, {3}, "rows[0]"},
        {"two counts", {{1, 2}}, {2, 0}, "2 row counts for 1 DP ranks"},
        {"no tokens", {{1}, {}}, {1}, "input 1 has no tokens"},
        {"negative token", {{1, -1}}, {2}, "token -1"},
        {"unknown token", {{static_cast<int>(TinyModel::get().config.vocab_size)}}, {1}, "vocabulary"},
    };
    for (const BadStep& bad : steps) {
      std::vector<SequenceInput> inputs;
      for (const auto& tokens : bad.tokens) inputs.push_back({inputs.size(), tokens});
      try {
        (void)rank.decoder.step(inputs, bad.rows);
        ADD_FAILURE() << bad.name << " was accepted";
      } catch (const InvalidArgument& error) {
        EXPECT_NE(std::string(error.what()).find(bad.said), std::string::npos)
            << bad.name << ": " << error.what();
      }
    }
    const std::vector<int> token{1};
    const std::vector<SequenceInput> twice{{3, token}, {3, token}};
    const std::vector<std::size_t> two{2};
    EXPECT_THROW((void)rank.decoder.step(twice, two), InvalidArgument);
    // A refused step changes nothing: the decoder works on.
    const std::vector<SequenceInput> good{{0, token}};
    const std::vector<std::size_t> one{1};
    EXPECT_EQ(rank.decoder.step(good, one).size(), TinyModel::get().config.vocab_size);
  });
}

}  // namespace
}  // namespace mixcomm::runner::test
