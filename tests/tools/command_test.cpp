// The `mixcomm` command as its users see it: exit codes, messages and output.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "command.hpp"

namespace mixcomm::test {
namespace {

using nlohmann::json;

// --- bad input ---------------------------------------------------------------------------------------------

TEST(Command, MistakesAreExplainedAndExitWith2) {
  const TemporaryDirectory files;
  const std::string three_lines =
      "{\"question\": \"a\", \"answer\": \"#### 1\"}\n\n{\"question\": \"b\", \"answer\"\n";
  const std::string damaged = files.file("damaged.jsonl", three_lines);
  const std::string no_number =
      files.file("no_number.jsonl", "{\"question\": \"a\", \"answer\": \"none\"}\n");
  const std::string no_question = files.file("no_question.jsonl", "[1]\n");
  const std::string empty = files.file("empty.jsonl", "\n");
  const std::string new_file = files.file("new.json");
  std::filesystem::create_directory(files.file("config_only"));
  std::filesystem::copy(tiny_model + "/config.json", files.file("config_only"));

  const std::vector<Mistake> mistakes = {
      {{}, "subcommand"},
      {{"nonsense"}, "there are: info, run,"},
      {{"info", "--frobnicate"}, "--frobnicate"},
      {{"check", "--tp", "0"}, "--tp"},
      {{"check", "--tp", "9", "--dp", "9"}, "at most 64 ranks"},
      {{"check", "--op", "sum"}, "there are: all_reduce,"},
      {{"check", "--backend", "tpu"}, "--backend"},
      {{"check", "--grids", "2by2"}, "2by2"},
      {{"check", "--hidden", "7"}, "--rows"},
      {{"check", "--tp", "2", "--timeout", "0"}, "--timeout"},
      {{"bench", "--rows", "-1"}, "-1"},
      {{"bench", "--rows", "1,x"}, "x"},
      {{"bench", "--rows", "99999999999999999999"}, "--rows"},
      {{"bench", "--rows", "1", "--uneven", "1"}, "excludes"},
      {{"bench", "--tp", "1", "--dp", "2", "--uneven", "1"}, "1 counts for 2 DP ranks"},
      {{"bench", "--dtype", "fp8"}, "there are: bf16, fp16, fp32"},
      {{"bench", "--algorithm", "ring"}, "one_shot"},
      {{"bench", "--against", "nccl"}, "nccl"},
      {{"bench", "--hidden", "16777216", "--rows", "16777216"}, "fewer rows"},
      {{"bench", "--json", "/nonexistent/x.json"}, "/nonexistent/x.json"},
      {{"bench", "--tp", "70", "--json", new_file}, "--tp"},
      {{"plan"}, "--model"},
      {{"plan", "--model", "/nonexistent"}, "/nonexistent"},
      {{"plan", "--model", tiny_model, "--attn-tp", "3"}, "attn_tp 3 does not divide"},
      {{"plan", "--model", tiny_model, "--attn-dp", "16", "--moe-ep", "16"}, "8 experts"},
      {{"plan", "--model", tiny_model, "--attn-tp", "2", "--moe-ep", "8"}, "must be the same ranks"},
      {{"plan", "--model", tiny_model, "--rows", "1,4"}, "one count"},
      {{"decode", "--model", tiny_model}, "no prompt"},
      {{"decode", "--model", tiny_model, "--prompt-file", "/nonexistent"}, "/nonexistent"},
      {{"decode", "--model", tiny_model, "--prompt", "", "--raw"}, "prompt 1 is empty"},
      {{"decode", "--model", tiny_model, "--prompt", "a", "--dtype", "fp16"}, "fp16"},
      {{"decode", "--model", tiny_model, "--prompt", "a", "--attn-tp", "8", "--attn-dp", "16"}, "at most 64"},
      {{"decode", "--model", tiny_model, "--prompt", "a", "--attn-dp", "64", "--moe-tp", "64", "--moe-ep",
        "64"},
       "does not divide the 8 experts"},
      {{"decode", "--model", tiny_model, "--prompt", "a", "--max-new-tokens", "5000"}, "1024"},
      {{"decode", "--model", files.file("config_only"), "--prompt", "a"}, "tokenizer.json"},
      {{"eval", "--model", tiny_model}, "--data"},
      {{"eval", "--model", tiny_model, "--data", "/nonexistent"}, "/nonexistent"},
      {{"eval", "--model", tiny_model, "--data", damaged}, damaged + ":3"},
      {{"eval", "--model", tiny_model, "--data", no_number}, no_number + ":1"},
      {{"eval", "--model", tiny_model, "--data", no_question}, no_question + ":1"},
      {{"eval", "--model", tiny_model, "--data", empty}, "no problems"},
      {{"eval", "--model", tiny_model, "--data", damaged, "--limit", "0"}, "--limit"},
      {{"run", "--", "true"}, "--ranks"},
      {{"run", "-n", "0", "--", "true"}, "--ranks"},
      {{"run", "-n", "2"}, "command"},
      {{"run", "-n", "2", "ls", "--all"}, "behind --"},
  };
  expect_explained(mistakes);
  EXPECT_FALSE(std::filesystem::exists(new_file));
}

TEST(Command, HelpHasExamples) {
  for (const char* subcommand : {"info", "run", "check", "bench", "plan", "decode", "eval"}) {
    const Outcome outcome = run({subcommand, "--help"});
    EXPECT_EQ(outcome.code, 0) << subcommand;
    EXPECT_CONTAINS(outcome.out, "Examples:");
    EXPECT_CONTAINS(outcome.out, fmt::format("mixcomm {}", subcommand));
  }
  EXPECT_CONTAINS(run({"--help"}).out, "Examples:");
  const Outcome version = run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.rfind("mixcomm ", 0), 0U) << version.out;
}

// --- info and plan -----------------------------------------------------------------------------------------

TEST(Command, InfoIsJson) {
  const json info = json::parse(run({"info", "--json"}).out);
  EXPECT_GE(info["machine"]["processors"].get<int>(), 1);
  EXPECT_TRUE(info["backends"]["cpu"]["available"].get<bool>());
  EXPECT_NE(info["backends"]["cpu"]["instruction_set"].get<std::string>(), "");
  EXPECT_EQ(info["algorithms"], json({"auto", "one_shot", "two_shot", "composed"}));
  EXPECT_EQ(info["operations"].size(), 5U);
  EXPECT_TRUE(info["launcher"].is_null());
  EXPECT_CONTAINS(run({"info"}).out, "AVX");
}

TEST(Command, InfoSaysWhatIsWrongWithALauncher) {
  const Outcome outcome = run({"info"}, {{"RANK", "0"}});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_CONTAINS(outcome.out, "WORLD_SIZE");
}

/// The operations at each boundary, in the order of the layers.
std::vector<json> operations(const Words& layout) {
  Words words{"plan", "--model", tiny_model, "--json", "--rows", "4"};
  words.insert(words.end(), layout.begin(), layout.end());
  const json plan = json::parse(run(words).out);
  std::vector<json> names;
  for (const json& boundary : plan["boundaries"]) {
    names.push_back(json::array());
    for (const json& operation : boundary["operations"]) names.back().push_back(operation["operation"]);
  }
  return names;
}

TEST(Command, PlanFindsTheCollectives) {
  const json none = json::array();
  const json fused_in = {"all_reduce_all_gather"};
  const json fused_out = {"reduce_scatter_all_reduce"};
  EXPECT_EQ(operations({"--attn-tp", "2", "--attn-dp", "2"}),
            (std::vector<json>{none, fused_in, fused_in, fused_out, fused_out}));
  const json sum = {"all_reduce"};
  EXPECT_EQ(operations({"--attn-tp", "4"}), (std::vector<json>{none, sum, sum, sum, sum}));
  const json gather = {"all_gather"};
  const json scatter = {"reduce_scatter"};
  EXPECT_EQ(operations({"--attn-dp", "4"}), (std::vector<json>{none, gather, gather, scatter, scatter}));
  EXPECT_EQ(operations({}), (std::vector<json>{none, none, none, none, none}));
}

TEST(Command, PlanCountsAndExplains) {
  const json plan = json::parse(run({"plan", "--model", tiny_model, "--attn-tp", "2", "--attn-dp", "2",
                                     "--uneven", "6,0", "--algorithm", "two_shot", "--json"})
                                    .out);
  EXPECT_EQ(plan["parallelism"], json({{"attn_tp", 2}, {"attn_dp", 2}, {"moe_tp", 1}, {"moe_ep", 4}}));
  EXPECT_EQ(plan["rows"], json({6, 0}));
  const json& boundaries = plan["boundaries"];
  std::vector<int> counts;
  for (const json& boundary : boundaries) counts.push_back(boundary["count"].get<int>());
  EXPECT_EQ(counts, (std::vector<int>{1, 2, 2, 3, 1}));
  const json& operation = boundaries[1]["operations"][0];
  EXPECT_EQ(operation["bytes"], 6 * 128 * 2);
  EXPECT_EQ(operation["bytes_per_rank"], 6 * 128 * 2 / 4 + 6 * 128 * 2 * 3 / 4);
  EXPECT_EQ(operation["algorithm"], "two_shot");
  EXPECT_CONTAINS(boundaries[1]["from"].get<std::string>(), "partial over tp");
  EXPECT_CONTAINS(boundaries[3]["from"].get<std::string>(), "partial over the world");
  EXPECT_CONTAINS(boundaries[3]["why"].get<std::string>(), "TP ranks");
  const std::string text = run({"plan", "--model", tiny_model, "--attn-tp", "2", "--attn-dp", "2"}).out;
  EXPECT_CONTAINS(text, "reduce_scatter_all_reduce");
}

// --- check and bench ---------------------------------------------------------------------------------------

TEST(Command, CheckPassesWithThreadsAndProcesses) {
  const Words check = {"check", "--tp", "2", "--dp", "2", "--quick", "--dtype", "bf16"};
  Words with_processes = check;
  with_processes.emplace_back("--processes");
  for (const Words& words : {check, with_processes}) {
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_CONTAINS(outcome.out, "tp 2 x dp 2: 1400 cases, ok\n1400 passed, 0 failed\n");
  }
}

TEST(Command, CheckTakesShapesAndSeveralGrids) {
  const TemporaryDirectory files;
  const Outcome outcome = run({"check", "--grids", "2x1,1x2", "--rows", "3,0", "--hidden", "50", "--op",
                               "all_reduce,all_gather", "--algorithm", "composed", "--dtype", "fp16",
                               "--buffers", "plain", "--json", files.file("check.json")});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  // 2 rows x 2 operations x 2 kinds of values on each grid.
  EXPECT_EQ(outcome.out, "tp 2 x dp 1: 8 cases, ok\ntp 1 x dp 2: 8 cases, ok\n16 passed, 0 failed\n");
  const json result = json::parse(read_text(files.file("check.json")));
  EXPECT_EQ(result["passed"], 16);
  EXPECT_EQ(result["grids"].size(), 2U);
}

TEST(Command, BenchWritesItsSchema) {
  const TemporaryDirectory files;
  for (const bool processes : {false, true}) {
    Words words = {"bench",
                   "--tp",
                   "2",
                   "--dp",
                   "2",
                   "--uneven",
                   "3,0",
                   "--hidden",
                   "64",
                   "--algorithm",
                   "all",
                   "--buffers",
                   "all",
                   "--op",
                   "all_reduce_all_gather",
                   "--json",
                   files.file("bench.json"),
                   "--iterations",
                   "40"};
    if (processes) words.emplace_back("--processes");
    const Outcome outcome = run(words);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_CONTAINS(outcome.out, "two_shot");
    const json result = json::parse(read_text(files.file("bench.json")));
    EXPECT_EQ(result.size(), 3U);
    EXPECT_TRUE(result["machine"].is_object());
    EXPECT_EQ(result["command"].get<std::string>().rfind("mixcomm bench --tp 2 --dp 2 --uneven 3,0", 0), 0U);
    ASSERT_EQ(result["rows"].size(), 6U);
    int chosen = 0;
    for (const json& row : result["rows"]) {
      std::vector<std::string> keys;
      for (const auto& [key, value] : row.items())
        if (key != "other_distance") keys.push_back(key);  // where the machine changed meanwhile
      EXPECT_EQ(keys, (std::vector<std::string>{"against", "algorithm", "backend", "bound_us", "buffers",
                                                "busbw_gbps", "bytes", "chosen", "chunks", "distance", "dp",
                                                "dtype", "flag_ns", "hidden", "op", "p50_us", "p99_us",
                                                "rows", "tp"}));
      EXPECT_GT(row["bound_us"].get<double>(), 0);
      EXPECT_EQ(row["rows"], json({3, 0}));
      EXPECT_EQ(row["bytes"], 3 * 64 * 2);
      EXPECT_EQ(row["dtype"], "bf16");
      EXPECT_EQ(row["backend"], "cpu");
      const double p50 = row["p50_us"].get<double>();
      EXPECT_GT(p50, 0);
      EXPECT_GE(row["p99_us"].get<double>(), p50);
      // (tp-1)/tp * B/dp + (n-1)/n * B = B
      EXPECT_NEAR(row["busbw_gbps"].get<double>(), 3 * 64 * 2 / p50 / 1000, 0.002);
      chosen += row["chosen"].get<bool>() ? 1 : 0;
      const bool composed = row["algorithm"] == "composed";
      EXPECT_EQ(row["against"].size(), composed ? 0U : 1U);
      if (!composed) {
        EXPECT_GT(row["against"]["composed"].get<double>(), 0);
      }
    }
    EXPECT_EQ(chosen, 2);  // one for each kind of buffers
  }
}

TEST(Command, BenchOfOneAlgorithmStillMeasuresComposed) {
  const TemporaryDirectory files;
  ASSERT_EQ(run({"bench", "--rows", "1,0", "--hidden", "8", "--algorithm", "auto", "--op", "all", "--seconds",
                 "0", "--json", files.file("bench.json")})
                .code,
            0);
  const json result = json::parse(read_text(files.file("bench.json")));
  ASSERT_EQ(result["rows"].size(), 10U);
  for (const json& row : result["rows"]) {
    EXPECT_TRUE(row["chosen"].get<bool>());
    EXPECT_TRUE(row["against"].contains("composed"));
  }
}

}  // namespace
}  // namespace mixcomm::test
