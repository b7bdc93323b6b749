// The decoder against transformers, and against itself on every grid.
#include "runner/decoder.hpp"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <mutex>

#include "mixcomm/error.hpp"
#include "runner/tiny_model.hpp"

namespace mixcomm::runner::test {
namespace {

constexpr std::size_t new_tokens = 24;  ///< where grids are compared; prompts end at different steps

std::vector<std::vector<int>> prompt_ids() {
  std::vector<std::vector<int>> ids;
  for (const auto& prompt : TinyModel::get().prompts) ids.push_back(prompt.ids);
  return ids;
}

std::vector<float> reference_logits(bool bf16) {
  std::vector<float> all;
  for (const auto& prompt : TinyModel::get().prompts) {
    const auto& logits = bf16 ? prompt.logits_bf16 : prompt.logits;
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

/// All prompts' logits on one rank: prompt by prompt, or in one ragged batch.
std::vector<float> one_rank_logits(DType dtype, bool in_one_batch) {
  std::vector<float> all;
  run_threads(1, [&](Bootstrap& bootstrap) {
    Rank rank(bootstrap, {}, {.dtype = dtype});
    if (in_one_batch) {
      all = logits_of(rank.decoder, prompt_ids());
      return;
    }
    for (const auto& prompt : prompt_ids()) {
      const auto logits = logits_of(rank.decoder, {prompt});
      all.insert(all.end(), logits.begin(), logits.end());
    }
  });
  return all;
}

TEST(Decoder, Fp32LogitsEqualTransformers) {
  for (const bool in_one_batch : {false, true}) {
    const Difference found = difference(one_rank_logits(DType::fp32, in_one_batch), reference_logits(false));
    RecordProperty(in_one_batch ? "largest_in_one_batch" : "largest", fmt::format("{:.3g}", found.largest));
    EXPECT_LE(found.largest, 1e-3);
  }
}

// Two bf16 computations of the same model that round at the same points but sum in different orders are off
// the fp32 one by errors of the same distribution. So ours may be as far off as transformers' own: at the
// median of some 10^5 logits, which is stable, with a margin of a quarter; at the largest, which is one draw
// from the tail (a near tie in a router that flips changes a whole row), with a factor of two.
TEST(Decoder, Bf16LogitsAreAsCloseAsTransformersOwn) {
  const auto exact = reference_logits(false);
  const Difference theirs = difference(reference_logits(true), exact);
  const Difference ours = difference(one_rank_logits(DType::bf16, false), exact);
  RecordProperty("theirs", fmt::format("largest {:.3g}, median {:.3g}", theirs.largest, theirs.median));
  RecordProperty("ours", fmt::format("largest {:.3g}, median {:.3g}", ours.largest, ours.median));
  EXPECT_LE(ours.largest, 2.0 * theirs.largest);
  EXPECT_LE(ours.median, 1.25 * theirs.median);
}

// On a grid of four ranks each sum has up to four terms that are rounded before they go over the wire, where
// one rank rounds once. Independent errors add as the root of their number: a factor of two, at most.
TEST(Decoder, Bf16LogitsOnAGrid) {
  const TinyModel& model = TinyModel::get();
  const Parallelism parallelism{2, 2, 2, 2};
  std::vector<std::vector<float>> logits(model.prompts.size());
  run_threads(parallelism.world(), [&](Bootstrap& bootstrap) {
    Rank rank(bootstrap, parallelism, {.dtype = DType::bf16});
    const auto d = static_cast<std::size_t>(rank.communicator.grid().dp.member);
    for (std::size_t i = 0; i < model.prompts.size(); i += 2) {
      const std::vector<std::size_t> rows{model.prompts[i].ids.size(), model.prompts[i + 1].ids.size()};
      const std::vector<SequenceInput> inputs{{i + d, model.prompts[i + d].ids}};
      const auto found = rank.decoder.step(inputs, rows, true);
      if (rank.communicator.grid().tp.member == 1) logits[i + d].assign(found.begin(), found.end());
    }
  });
  std::vector<float> all;
  for (const auto& each : logits) all.insert(all.end(), each.begin(), each.end());
  const auto exact = reference_logits(false);
  const Difference theirs = difference(reference_logits(true), exact);
  const Difference ours = difference(all, exact);
  RecordProperty("ours_on_a_grid", fmt::format("largest {:.3g}, median {:.3g}", ours.largest, ours.median));
  EXPECT_LE(ours.median, 2.0 * theirs.median);
}

TEST(Decoder, GreedyContinuationsEqualTransformers) {
  const TinyModel& model = TinyModel::get();
  run_threads(1, [&](Bootstrap& bootstrap) {
    Rank rank(bootstrap, {}, {});
    std::size_t longest = 0;
    for (const auto& prompt : model.prompts) longest = std::max(longest, prompt.continuation.size());
    const auto generated =
        generate(rank.decoder, rank.communicator, prompt_ids(),
                 {.max_new_tokens = longest, .eos_token_ids = {model.eos}, .progress = {}});
    for (std::size_t i = 0; i < model.prompts.size(); ++i) {
      EXPECT_EQ(generated.tokens[i], model.prompts[i].continuation) << "prompt " << i;
    }
    EXPECT_EQ(generated.steps.size(), longest);
    for (const auto& step : generated.steps) EXPECT_EQ(step.comm.size(), 2 * model.config.layers.size());
  });
}

// Norms by themselves round once more where a residual is added before the sum: other bits, the same tokens.
TEST(Decoder, NormsApartGiveTheSameTokens) {
  const TinyModel& model = TinyModel::get();
  for (const Parallelism& parallelism : {Parallelism{}, Parallelism{2, 2, 2, 2}, Parallelism{1, 2, 1, 2}})
    run_threads(parallelism.world(), [&](Bootstrap& bootstrap) {
      Rank rank(bootstrap, parallelism, {.norms_apart = true});
      const auto dp = static_cast<std::size_t>(parallelism.attn_dp);
      std::vector<std::size_t> mine;
      std::vector<std::vector<int>> ids;
      for (auto i = static_cast<std::size_t>(rank.communicator.grid().dp.member); i < model.prompts.size();
           i += dp) {
        mine.push_back(i);
        ids.push_back(model.prompts[i].ids);
      }
      const auto generated = generate(rank.decoder, rank.communicator, ids,
                                      {.max_new_tokens = new_tokens, .eos_token_ids = {}, .progress = {}});
      for (std::size_t i = 0; i < mine.size(); ++i) {
        const auto& whole = model.prompts[mine[i]].continuation;
        const auto count = static_cast<std::ptrdiff_t>(std::min(new_tokens, whole.size()));
        EXPECT_TRUE(std::equal(whole.begin(), whole.begin() + count, generated.tokens[i].begin()))
            << "prompt " << mine[i] << " on " << to_string(parallelism);
      }
      const auto& last = generated.steps.back();
      EXPECT_EQ(last.comm.size(), 2 * model.config.layers.size());
      const std::size_t before = parallelism.attn_dp > 1 ? model.config.layers.size() : 0;
      EXPECT_EQ(last.apart.size(), 2 * model.config.layers.size() + before);
    });
}

// A sequence may be fed in parts: what the slots remember is all that matters.
TEST(Decoder, PrefillInPartsEqualsPrefillAtOnce) {
  const auto& prompt = TinyModel::get().prompts[0];
  run_threads(1, [&](Bootstrap& bootstrap) {
    Rank rank(bootstrap, {}, {});
    std::vector<float> all;
    for (std::size_t begin = 0, size = 1; begin < prompt.ids.size(); begin += size, size *= 2) {
      const auto part = std::span(prompt.ids).subspan(begin, std::min(size, prompt.ids.size() - begin));
      const std::vector<SequenceInput> inputs{{7, part}};
      const std::vector<std::size_t> rows{part.size()};
      const auto logits = rank.decoder.step(inputs, rows, true);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    EXPECT_LE(difference(all, prompt.logits).largest, 1e-3);
  });
}

/// Which prompts each DP rank decodes.
using Shares = std::vector<std::vector<std::size_t>>;

/// Different numbers of prompts per DP rank; the lengths differ anyway.
Shares uneven_shares(int dp) {
  Shares shares(static_cast<std::size_t>(dp));
  for (std::size_t i = 0; i < TinyModel::get().prompts.size(); ++i) {
    const std::size_t owner = i < shares.size() ? i : (i % 3 == 0 ? 0 : shares.size() - 1);
    shares[owner].push_back(i);
  }
  return shares;
}

/// As above, but DP rank 0 has nothing to do, from the first step on (and is a member of every boundary all
/// the same).
Shares idle_shares(int dp) {
  Shares shares = uneven_shares(dp);
  shares.back().insert(shares.back().end(), shares[0].begin(), shares[0].end());
  shares[0].clear();
  return shares;
}

/// What one rank alone gives, which the tests above compare with transformers.
const std::vector<std::vector<int>>& one_rank_tokens() {
  static const auto tokens = [] {
    const TinyModel& model = TinyModel::get();
    std::vector<std::vector<int>> result;
    for (const auto& prompt : model.prompts) {
      result.push_back(prompt.continuation);
      if (result.back().size() > new_tokens) result.back().resize(new_tokens);
    }
    return result;
  }();
  return tokens;
}

struct GridCase {
  Parallelism parallelism;
  Algorithm algorithm;
};

std::string case_name(const testing::TestParamInfo<GridCase>& info) {
  const auto& [p, algorithm] = info.param;
  return fmt::format("attn{}x{}_moe{}x{}_{}", p.attn_tp, p.attn_dp, p.moe_tp, p.moe_ep, name(algorithm));
}

std::vector<GridCase> all_cases() {
  std::vector<GridCase> cases;
  constexpr std::pair<int, int> grids[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}, {4, 2}, {2, 4}};
  for (const auto& [tp, dp] : grids) {
    for (int moe_tp = 1; moe_tp <= tp * dp; ++moe_tp) {
      if (tp * dp % moe_tp != 0) continue;
      for (const auto algorithm :
           {Algorithm::one_shot, Algorithm::two_shot, Algorithm::composed, Algorithm::automatic}) {
        cases.push_back({{tp, dp, moe_tp, tp * dp / moe_tp}, algorithm});
      }
    }
  }
  return cases;
}

class DecoderOnGrid : public testing::TestWithParam<GridCase> {};

TEST_P(DecoderOnGrid, GivesTheTokensOfOneRank) {
  const Parallelism parallelism = GetParam().parallelism;
  const Algorithm algorithm = GetParam().algorithm;
  const TinyModel& model = TinyModel::get();
  std::vector<Shares> batches{uneven_shares(parallelism.attn_dp)};
  if (parallelism.attn_dp > 1) batches.push_back(idle_shares(parallelism.attn_dp));
  std::mutex mutex;  // gtest's own thread safety does not reach SCOPED_TRACE
  run_threads(parallelism.world(), [&](Bootstrap& bootstrap) {
    Rank rank(bootstrap, parallelism, {.algorithm = algorithm});
    const auto dp_rank = static_cast<std::size_t>(rank.communicator.grid().dp.member);
    for (const Shares& shares : batches) {
      std::vector<std::vector<int>> prompts;
      for (const std::size_t i : shares[dp_rank]) prompts.push_back(model.prompts[i].ids);
      const auto generated =
          generate(rank.decoder, rank.communicator, prompts,
                   {.max_new_tokens = new_tokens, .eos_token_ids = {model.eos}, .progress = {}});
      const std::lock_guard lock(mutex);
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_EQ(generated.tokens[i], one_rank_tokens()[shares[dp_rank][i]])
            << "rank " << bootstrap.rank() << ", prompt " << shares[dp_rank][i];
      }
    }
  });
}

// Tokens hide small errors; logits do not.
TEST_P(DecoderOnGrid, GivesTheLogitsOfOneRank) {
  const Parallelism parallelism = GetParam().parallelism;
  const Algorithm algorithm = GetParam().algorithm;
  const TinyModel& model = TinyModel::get();
  const Shares shares = uneven_shares(parallelism.attn_dp);
  std::vector<std::size_t> rows(shares.size(), 0);
  for (std::size_t d = 0; d < shares.size(); ++d) {
    for (const std::size_t i : shares[d]) rows[d] += model.prompts[i].ids.size();
  }
  std::mutex mutex;
  run_threads(parallelism.world(), [&](Bootstrap& bootstrap) {
    Rank rank(bootstrap, parallelism, {.algorithm = algorithm});
    const auto dp_rank = static_cast<std::size_t>(rank.communicator.grid().dp.member);
    std::vector<SequenceInput> inputs;
    std::vector<float> expected;
    for (const std::size_t i : shares[dp_rank]) {
      inputs.push_back({i, model.prompts[i].ids});
      expected.insert(expected.end(), model.prompts[i].logits.begin(), model.prompts[i].logits.end());
    }
    const auto logits = rank.decoder.step(inputs, rows, true);
    const std::lock_guard lock(mutex);
    EXPECT_LE(difference(logits, expected).largest, 1e-3) << "rank " << bootstrap.rank();
  });
}

INSTANTIATE_TEST_SUITE_P(Every, DecoderOnGrid, testing::ValuesIn(all_cases()), case_name);

}  // namespace
}  // namespace mixcomm::runner::test
