// `mixcomm decode` and `mixcomm eval` with the tiny model.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "command.hpp"

namespace mixcomm::test {
namespace {

using nlohmann::json;

class ModelCommand : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(tiny_model + "/model.safetensors"))
      GTEST_SKIP() << "there is no " << tiny_model;
  }
};

const Words decode_two = {"decode",
                          "--model",
                          tiny_model,
                          "--dtype",
                          "fp32",
                          "--prompt",
                          "Tom has 12 apples. He buys 30 more. How many apples does Tom have now?",
                          "--prompt",
                          "There are 4 boxes with 6 pens each. How many pens are there?",
                          "--max-new-tokens",
                          "24",
                          "--json"};

json decode(const Words& more) {
  Words words = decode_two;
  words.insert(words.end(), more.begin(), more.end());
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return json::parse(outcome.out, nullptr, false);
}

TEST_F(ModelCommand, DecodesTheSameOnEveryLayout) {
  const json alone = decode({});
  ASSERT_EQ(alone["continuations"].size(), 2U);
  EXPECT_TRUE(alone["latency"]["collectives_share"].is_number());
  EXPECT_GT(alone["latency"]["prefill_ms"].get<double>(), 0);
  EXPECT_GE(alone["latency"]["inter_token_p99_us"].get<double>(),
            alone["latency"]["inter_token_p50_us"].get<double>());
  // Idle DP ranks, TP, both, and processes.
  for (const Words& layout :
       {Words{"--attn-dp", "4"}, Words{"--attn-tp", "2"},
        Words{"--attn-tp", "2", "--attn-dp", "2", "--moe-tp", "2", "--algorithm", "composed"},
        Words{"--attn-tp", "2", "--attn-dp", "2", "--processes"}})
    EXPECT_EQ(decode(layout)["continuations"], alone["continuations"]) << layout[1];
}

TEST_F(ModelCommand, DecodesTextFilesAndRawPrompts) {
  const TemporaryDirectory files;
  const std::string prompts = files.file("prompts.txt", "Question: 2 + 2?\nAnswer:\n\n");
  const Outcome outcome =
      run({"decode", "--model", tiny_model, "--prompt-file", prompts, "--raw", "--max-new-tokens", "4"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.rfind("Question: 2 + 2?", 0), 0U) << outcome.out;
  EXPECT_NE(outcome.out.find("\nAnswer:"), std::string::npos);
  EXPECT_NE(outcome.out.find("prefill"), std::string::npos);
  const Outcome one_token = run({"decode", "--model", tiny_model, "--prompt", "a", "--max-new-tokens", "1"});
  EXPECT_EQ(one_token.code, 0) << one_token.err;
}

TEST_F(ModelCommand, SolvesWhatTransformersSolves) {
  const TemporaryDirectory files;
  const json reference = json::parse(read_text(source + "/tests/data/eval_tiny_exact_match.json"));
  const auto wrong = reference["wrong_lines"].get<std::vector<int>>();
  const std::string new_tokens = std::to_string(reference["max_new_tokens"].get<int>());
  for (const Words& layout : {Words{"--attn-tp", "1"}, Words{"--attn-tp", "2", "--attn-dp", "2"}}) {
    Words words = {"eval",
                   "--model",
                   tiny_model,
                   "--data",
                   tiny_model + "/eval.jsonl",
                   "--limit",
                   "30",
                   "--dtype",
                   "fp32",
                   "--batch",
                   "6",
                   "--max-new-tokens",
                   new_tokens,
                   "--json",
                   files.file("eval.json")};
    words.insert(words.end(), layout.begin(), layout.end());
    const Outcome outcome = run(words);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const json result = json::parse(read_text(files.file("eval.json")));
    ASSERT_EQ(result["details"].size(), 30U);
    int right = 0;
    for (const json& each : result["details"]) {
      const bool expected = std::find(wrong.begin(), wrong.end(), each["line"].get<int>()) == wrong.end();
      EXPECT_EQ(each["right"].get<bool>(), expected) << each;
      right += expected ? 1 : 0;
    }
    const json& first = reference["first_20"];
    for (std::size_t i = 0; i < first.size(); ++i)
      EXPECT_EQ(result["details"][i]["text"], first[i]["generated"]);
    EXPECT_EQ(result["exact_match"], right);
    EXPECT_EQ(outcome.out.rfind("exact match: " + std::to_string(right) + " of 30 (", 0), 0U) << outcome.out;
  }
}

}  // namespace
}  // namespace mixcomm::test
