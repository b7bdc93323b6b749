// Which layouts a model allows, and what the others are told.
#include "runner/parallelism.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "tests/runner/temporary_directory.hpp"

namespace mixcomm::runner {
namespace {

using test::refusal;
using test::says;

ModelConfig model() {
  ModelConfig config;
  config.num_attention_heads = 8;
  config.num_key_value_heads = 2;
  config.linear_num_key_heads = 8;
  config.linear_num_value_heads = 16;
  config.num_experts = 6;
  config.moe_intermediate_size = 64;
  config.shared_expert_intermediate_size = 7;  // puts no rule
  return config;
}

std::string refusal_of(const Parallelism& parallelism, const ModelConfig& config = model()) {
  return refusal([&] { check_parallelism(parallelism, config); });
}

TEST(Parallelism, Prints) {
  EXPECT_EQ(to_string({.attn_tp = 4, .attn_dp = 2, .moe_tp = 2, .moe_ep = 4}), "attn 4x2, moe 2x4");
}

TEST(Parallelism, AllowsExactlyTheLayoutsThatDivide) {
  const ModelConfig config = model();
  for (int attn_tp = 1; attn_tp <= 20; ++attn_tp) {
    for (int attn_dp = 1; attn_dp <= 6; ++attn_dp) {
      for (int moe_tp = 1; moe_tp <= 20; ++moe_tp) {
        for (int moe_ep = 1; moe_ep <= 20; ++moe_ep) {
          const Parallelism p{.attn_tp = attn_tp, .attn_dp = attn_dp, .moe_tp = moe_tp, .moe_ep = moe_ep};
          const bool divides = 8 % attn_tp == 0 && 64 % moe_tp == 0 && 6 % moe_ep == 0;
          if (divides && attn_tp * attn_dp == moe_tp * moe_ep) {
            EXPECT_NO_THROW(check_parallelism(p, config)) << to_string(p);
          } else {
            EXPECT_THROW(check_parallelism(p, config), InvalidArgument) << to_string(p);
          }
        }
      }
    }
  }
}

TEST(Parallelism, SaysWhichHeadsDoNotDivide) {
  EXPECT_EQ(refusal_of({.attn_tp = 3, .attn_dp = 1, .moe_tp = 1, .moe_ep = 3}),
            "attn_tp 3 does not divide the 8 attention heads of this model; attn_tp may be 1, 2, 4 or 8");
  EXPECT_EQ(refusal_of({.attn_tp = 16, .attn_dp = 1, .moe_tp = 16, .moe_ep = 1}),
            "attn_tp 16 does not divide the 8 attention heads of this model; attn_tp may be 1, 2, 4 or 8");

  ModelConfig config = model();
  config.linear_num_key_heads = 4;
  EXPECT_EQ(refusal_of({.attn_tp = 8, .moe_tp = 8}, config),
            "attn_tp 8 does not divide the 4 DeltaNet key heads of this model; attn_tp may be 1, 2 or 4");
  config.linear_num_key_heads = 8;
  config.linear_num_value_heads = 2;
  EXPECT_TRUE(says(refusal_of({.attn_tp = 8, .moe_tp = 8}, config), "the 2 DeltaNet value heads"));
}

TEST(Parallelism, WantsKvHeadsWholeOrShared) {
  ModelConfig config = model();
  config.num_attention_heads = 24;
  config.linear_num_key_heads = 24;
  config.linear_num_value_heads = 24;
  config.num_key_value_heads = 4;
  EXPECT_EQ(refusal_of({.attn_tp = 6, .moe_ep = 6}, config),
            "attn_tp 6 neither divides nor is a multiple of the 4 KV heads of this model; attn_tp may be 1, "
            "2, 4, 8, "
            "12 or 24");
  EXPECT_NO_THROW(check_parallelism({.attn_tp = 12, .moe_tp = 2, .moe_ep = 6}, config));
}

TEST(Parallelism, SaysWhatTheExpertsAllow) {
  EXPECT_EQ(refusal_of({.attn_tp = 4, .attn_dp = 1, .moe_tp = 1, .moe_ep = 4}),
            "moe_ep 4 does not divide the 6 experts of this model; moe_ep may be 1, 2, 3 or 6");
  EXPECT_EQ(refusal_of({.attn_dp = 12, .moe_tp = 1, .moe_ep = 12}),
            "moe_ep 12 does not divide the 6 experts of this model; moe_ep may be 1, 2, 3 or 6");
  EXPECT_EQ(
      refusal_of({.attn_tp = 1, .attn_dp = 3, .moe_tp = 3}),
      "moe_tp 3 does not divide the expert width 64 of this model; moe_tp may be 1, 2, 4, 8, 16, 32 or 64");
}

TEST(Parallelism, ListsOnlyTheNearestOfMany) {
  ModelConfig config = model();
  config.moe_intermediate_size = 768;
  EXPECT_TRUE(says(refusal_of({.attn_dp = 100, .moe_tp = 100}, config),
                   "moe_tp may be 12, 16, 24, 32, 48, 64, 96 or 128"));
}

TEST(Parallelism, WantsTheSameRanksOnBothSides) {
  EXPECT_EQ(refusal_of({.attn_tp = 4, .attn_dp = 2, .moe_tp = 2, .moe_ep = 2}),
            "attn_tp 4 * attn_dp 2 is 8 ranks, moe_tp 2 * moe_ep 2 is 4; they must be the same ranks; over 8 "
            "ranks, "
            "moe_tp x moe_ep may be 4x2 or 8x1");
  EXPECT_TRUE(says(refusal_of({.attn_tp = 1, .attn_dp = 5, .moe_tp = 2, .moe_ep = 2}),
                   "this model's experts cannot be spread over 5 ranks"));
}

TEST(Parallelism, RefusesWhatIsNoDegree) {
  EXPECT_EQ(refusal_of({.attn_tp = 0}), "attn_tp is 0; it must be at least 1");
  EXPECT_EQ(refusal_of({.attn_dp = -4}), "attn_dp is -4; it must be at least 1");
  EXPECT_EQ(refusal_of({.moe_tp = std::numeric_limits<int>::min()}),
            "moe_tp is -2147483648; it must be at least 1");
  EXPECT_EQ(refusal_of({.moe_ep = 0}), "moe_ep is 0; it must be at least 1");
  EXPECT_TRUE(says(refusal_of({.attn_tp = 8, .attn_dp = std::numeric_limits<int>::max(), .moe_tp = 8}),
                   "more than there can be"));
}

TEST(Parallelism, RefusesAModelWithoutHeads) {
  EXPECT_EQ(refusal_of({}, ModelConfig{}),
            "the model has no attention heads (0); there is nothing to spread");
}

}  // namespace
}  // namespace mixcomm::runner
