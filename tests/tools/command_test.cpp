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
  const std::string pointer = files.file("pointer",
                                         "version https://git-lfs.github.com/spec/v1\noid "
                                         "sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b\nsize 12345\n");
  json config = json::parse(read_text(source + "/tests/data/saved_configs/glm-4.5.json"));
  config["num_experts_per_tok"] = config["n_routed_experts"].get<int>() + 1;
  const std::string greedy = files.file("greedy.json", config.dump());
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
      {{"bench", "--rows", "1,,2"}, "nothing on one side of a comma"},
      {{"bench", "--rows", "0x10"}, "'0x10' is no decimal number"},
      {{"bench", "--tp", "065"}, "065 is not from 1 to 64"},
      {{"bench", "--grids", "2x1,"}, "nothing on one side of a comma"},
      {{"bench", "--against", "mpich,"}, "nothing on one side of a comma"},
      {{"bench", "--json", ""}, "--json: the value is empty"},
      {{"bench", "--tuning", ""}, "--tuning: the value is empty"},
      {{"bench", "--tuning", pointer}, "Git LFS pointer"},
      {{"check", "--timeout", "nan"}, "--timeout: nan is not from"},
      {{"check", "--timeout", "inf"}, "--timeout: inf is not from"},
      {{"check", "--timeout", "-1"}, "--timeout: -1 is not from"},
      {{"bench", "--rows", "99999999999999999999"}, "--rows"},
      {{"bench", "--rows", "1", "--uneven", "1"}, "excludes"},
      {{"bench", "--tp", "1", "--dp", "2", "--uneven", "1"}, "1 counts for 2 DP ranks"},
      {{"bench", "--dtype", "fp8"}, "there are: bf16, fp16, fp32"},
      {{"bench", "--algorithm", "ring"}, "one_shot"},
      {{"bench", "--epilogue", "softmax"}, "there are: none, add_rms_norm, add_rms_norm_fp8"},
      {{"bench", "--backend", "cuda", "--processes", "--algorithm", "nccl", "--epilogue", "all"},
       "nccl has no epilogues"},
      {{"bench", "--against", "nccl"}, "nccl"},
      {{"bench", "--hidden", "16777216", "--rows", "16777216"}, "fewer rows"},
      {{"bench", "--json", "/nonexistent/x.json"}, "/nonexistent/x.json"},
      {{"bench", "--tp", "70", "--json", new_file}, "--tp"},
      {{"plan"}, "--model"},
      {{"plan", "--model", "/nonexistent"}, "/nonexistent"},
      {{"plan", "--model", ""}, "--model: the value is empty"},
      {{"plan", "--model", greedy}, "has num_experts_per_tok 161, more than the 160 experts"},
      {{"plan", "--model", tiny_model, "--compare", "--gpus", "010", "--batch", "8"}, "over 10 GPUs"},
      {{"plan", "--model", tiny_model, "--attn-tp", "3"}, "attn_tp 3 does not divide"},
      {{"plan", "--model", tiny_model, "--attn-dp", "16", "--moe-ep", "16"}, "8 experts"},
      {{"plan", "--model", tiny_model, "--attn-tp", "2", "--moe-ep", "8"}, "must be the same ranks"},
      {{"plan", "--model", tiny_model, "--rows", "1,4"}, "one count"},
      {{"plan", "--model", tiny_model, "--attn-tp", "2", "--mlp-tp", "3"}, "mlp_tp 3 does not divide"},
      {{"plan", "--model", tiny_model, "--link", "string"}, "nvlink4"},
      {{"plan", "--model", tiny_model, "--picture", files.file("plan.png")}, ".svg"},
      {{"plan", "--model", tiny_model, "--constants", damaged}, "damaged.jsonl"},
      {{"plan", "--model", tiny_model, "--compare"}, "--gpus"},
      {{"plan", "--model", tiny_model, "--ranks-per-node", "0"}, "--ranks-per-node: 0 is not from 1 to 4096"},
      {{"plan", "--model", tiny_model, "--nics-per-node", "x"}, "--nics-per-node"},
      {{"plan", "--model", tiny_model, "--network-latency-us", "-1"}, "--network-latency-us: -1 is not from"},
      {{"plan", "--model", tiny_model, "--network-latency-us", "nan"},
       "--network-latency-us: nan is not from"},
      {{"plan", "--model", tiny_model, "--network-gbps", "0"}, "--network-gbps: 0 is not from"},
      {{"plan", "--model", tiny_model, "--network-gbps", "0x10"}, "'0x10' is no decimal number"},
      {{"check", "--real-ranks", "2"}, "--plan"},
      {{"decode", "--model", tiny_model}, "no prompt"},
      {{"decode", "--model", tiny_model, "--prompt-file", "/nonexistent"}, "/nonexistent"},
      {{"decode", "--model", tiny_model, "--prompt-file", pointer}, "Git LFS pointer"},
      {{"decode", "--model", "", "--prompt", "a"}, "--model: the value is empty"},
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
      {{"eval", "--model", tiny_model, "--data", pointer},
       "Git LFS pointer, not the file itself (of 12345 bytes)"},
      {{"eval", "--model", tiny_model, "--data", tiny_model + "/eval.jsonl", "--shots", "100", "--limit",
        "2"},
       "(--limit 2) can be; each shows 100 problems first: give fewer --shots"},
      {{"eval", "--model", tiny_model, "--data", damaged, "--shots", "1"}, "leaves none to ask"},
      {{"eval", "--model", tiny_model, "--data", damaged, "--chat"}, "no chat template"},
      {{"eval", "--model", tiny_model, "--data", damaged, "--system", "a"}, "--chat"},
      {{"eval", "--model", tiny_model, "--data", damaged, "--max-new-tokens", "5000"}, damaged + ":1"},
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
  const bool between = info["between_hosts"]["available"].get<bool>();
  EXPECT_CONTAINS(info["between_hosts"]["why"].get<std::string>(),
                  between ? "bootstrap_mpi()" : "MIXCOMM_MPI");
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
  // Embedding, two kinds of attention with the experts behind each, the last experts, and logits.
  const auto expected = [](const json& in, const json& out) {
    const json none = json::array();
    return std::vector<json>{none, in, out, in, out, out, none};
  };
  EXPECT_EQ(operations({"--attn-tp", "2", "--attn-dp", "2"}),
            expected({"all_reduce_all_gather"}, {"reduce_scatter_all_reduce"}));
  EXPECT_EQ(operations({"--attn-tp", "4"}), expected({"all_reduce"}, {"all_reduce"}));
  EXPECT_EQ(operations({"--attn-dp", "4"}), expected({"all_gather"}, {"reduce_scatter"}));
  EXPECT_EQ(operations({}), expected(json::array(), json::array()));
}

TEST(Command, PlanCountsAndExplains) {
  const json plan = json::parse(run({"plan", "--model", tiny_model, "--attn-tp", "2", "--attn-dp", "2",
                                     "--uneven", "6,0", "--algorithm", "two_shot", "--json"})
                                    .out);
  EXPECT_EQ(plan["parallelism"],
            json({{"attn_tp", 2}, {"attn_dp", 2}, {"moe_tp", 1}, {"moe_ep", 4}, {"mlp_tp", 2}}));
  EXPECT_EQ(plan["rows"], json({6, 0}));
  const json& boundaries = plan["boundaries"];
  std::vector<int> counts;
  for (const json& boundary : boundaries) counts.push_back(boundary["count"].get<int>());
  EXPECT_EQ(counts, (std::vector<int>{1, 2, 2, 2, 1, 1, 1}));
  const json& operation = boundaries[1]["operations"][0];
  EXPECT_EQ(operation["bytes"], 6 * 128 * 2);
  EXPECT_EQ(operation["bytes_per_rank"], 6 * 128 * 2 / 4 + 6 * 128 * 2 * 3 / 4);
  EXPECT_EQ(operation["algorithm"], "two_shot");
  EXPECT_EQ(operation["rows"], json({{"from", {6, 0}}, {"to", 6}}));
  EXPECT_GT(operation["us"].get<double>(), 0);
  EXPECT_LT(boundaries[1]["us"].get<double>(), boundaries[1]["two_calls"]["us"].get<double>());
  EXPECT_CONTAINS(boundaries[1]["from"].get<std::string>(), "partial over attn_tp");
  EXPECT_CONTAINS(boundaries[2]["from"].get<std::string>(), "partial over moe_tp x moe_ep");
  EXPECT_CONTAINS(boundaries[2]["why"].get<std::string>(), "would leave out attn_tp");
  EXPECT_FALSE(plan["constants"]["links"][0]["source"].get<std::string>().empty());
  const std::string text = run({"plan", "--model", tiny_model, "--attn-tp", "2", "--attn-dp", "2"}).out;
  EXPECT_CONTAINS(text, "reduce_scatter_all_reduce");
  EXPECT_CONTAINS(text, "source:");
}

TEST(Command, PlanOfSeveralNodesHasTwoLevels) {
  Words words{"plan", "--model",        tiny_model, "--attn-tp", "2",    "--attn-dp",
              "4",    "--rows",         "16",       "--dtype",   "bf16", "--network-latency-us",
              "12",   "--network-gbps", "8"};
  const auto plan_with = [&](const Words& more, bool as_json) {
    Words all = words;
    all.insert(all.end(), more.begin(), more.end());
    if (as_json) all.emplace_back("--json");
    const Outcome outcome = run(all);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  };
  const json plan = json::parse(plan_with({"--ranks-per-node", "4"}, true));
  const json& in = plan["boundaries"][1]["operations"][0];
  EXPECT_EQ(in["operation"], "all_reduce_all_gather");
  EXPECT_EQ(in["link"], "network400");
  const json& across = in["across_nodes"];
  EXPECT_EQ(across["nodes"], 2);
  EXPECT_EQ(across["bytes_per_node"], 2 * 16 * 128 * 2);
  EXPECT_EQ(across["bytes_per_rank"], 2 * 16 * 128 * 2 / 4);
  EXPECT_NEAR(across["us"].get<double>(), 12 + 2 * 16 * 128 * 2 / 1000.0, 1e-9);
  EXPECT_TRUE(across["not_yet"].is_null());
  EXPECT_EQ(across["before"]["what"], "all_reduce_all_gather on 2x2");
  const json& out = plan["boundaries"][2]["operations"][0]["across_nodes"];
  EXPECT_EQ(out["partial_bytes_per_node"], 2 * 16 * 128 * 4);
  EXPECT_TRUE(out["not_yet"].is_null());
  EXPECT_EQ(plan["constants"]["ranks_per_node"], 4);
  EXPECT_EQ(plan["constants"]["nics_per_node"], 1);
  const std::string text = plan_with({"--ranks-per-node", "4"}, false);
  EXPECT_CONTAINS(text, "across       2 nodes: 2 KiB of a rank, 8 KiB of a node, ");
  EXPECT_CONTAINS(text, "within       all_reduce_all_gather on 2x2");
  EXPECT_CONTAINS(plan_with({"--ranks-per-node", "3"}, false), "a TP group on several nodes");
  // Without the flag ranks on CPUs are on one node.
  EXPECT_TRUE(json::parse(plan_with({}, true))["boundaries"][1]["operations"][0]["across_nodes"].is_null());
}

/// Every shape that is shipped, by directory and by file, with each way that a module may be declared.
TEST(Command, PlanOfPublishedShapes) {
  const std::string shapes = source + "/models/shapes/";
  for (const char* name : {"qwen3.5-397b-a17b", "qwen3.5-35b-a3b", "deepseek-v3", "qwen3-235b-a22b",
                           "kimi-k2", "deepseek-v3.2", "qwen3-next-80b-a3b", "qwen3-vl-235b-a22b", "glm-4.5",
                           "gpt-oss-120b", "minimax-m2", "mixtral-8x22b"}) {
    for (const char* file : {"", "/config.json"}) {
      const json plan = json::parse(run({"plan",       "--model",  shapes + name + file,
                                         "--attn-tp",  "4",        "--attn-dp",
                                         "2",          "--moe-tp", "2",
                                         "--rows",     "16",       "--head",
                                         "sharded",    "--shared", "apart",
                                         "--mlp-tp",   "1",        "--sharded-embedding",
                                         "--rows-way", "max_len",  "--backend",
                                         "cuda",       "--json"})
                                        .out);
      EXPECT_GT(plan["us"].get<double>(), 0) << name;
      EXPECT_LT(plan["us"].get<double>(), plan["two_calls_us"].get<double>()) << name;
      EXPECT_EQ(plan["boundaries"].back()["operations"][0]["operation"], "gather_columns") << name;
    }
  }
  const json deepseek = json::parse(run({"plan", "--model", shapes + "deepseek-v3", "--attn-tp", "2",
                                         "--attn-dp", "4", "--mlp-tp", "1", "--json"})
                                        .out);
  EXPECT_EQ(deepseek["layers"], 61);
  EXPECT_EQ(deepseek["boundaries"][1]["count"], 3);  // dense
  EXPECT_EQ(deepseek["boundaries"][1]["operations"][0]["operation"], "reduce_scatter");
}

json plan_of(const Words& more) {
  Words words{"plan", "--json", "--rows", "16", "--backend", "cuda"};
  words.insert(words.end(), more.begin(), more.end());
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return json::parse(outcome.out, nullptr, false);
}

/// A plan but for the file that it is of.
json plan_without_name(const std::string& model) {
  json plan =
      plan_of({"--model", model, "--attn-tp", "2", "--attn-dp", "4", "--moe-tp", "2", "--moe-ep", "4"});
  plan.erase("model");
  plan.erase("assumed");  // what a file spells out is not assumed
  return plan;
}

/// transformers renames fields from release to release; the model, and so its plan, stays what it is.
TEST(Command, PlanOfWhatTransformersSaves) {
  const TemporaryDirectory files;
  int compared = 0;
  for (const auto& saved : std::filesystem::directory_iterator(source + "/tests/data/saved_configs")) {
    const std::string name = saved.path().stem().string();
    const std::string copy = files.file(name);
    std::filesystem::create_directory(copy);
    std::filesystem::copy_file(saved.path(), copy + "/config.json");
    EXPECT_EQ(plan_without_name(copy), plan_without_name(fmt::format("{}/models/shapes/{}", source, name)))
        << name;
    ++compared;
  }
  EXPECT_EQ(compared, 11);

  std::string renamed = read_text(source + "/models/shapes/qwen3-235b-a22b/config.json");
  renamed.replace(renamed.find("num_experts"), 11, "num_local_experts");
  EXPECT_EQ(plan_without_name(files.file("renamed.json", renamed)),
            plan_without_name(source + "/models/shapes/qwen3-235b-a22b"));
  std::string both = renamed;
  both.insert(1, "\"num_experts\": 64,");
  EXPECT_CONTAINS(run({"plan", "--model", files.file("both.json", both)}).err, "two names of one thing");
}

TEST(Command, PlanOfTodaysModels) {
  const std::string shapes = source + "/models/shapes/";
  const auto assumes = [](const json& plan, const std::string& what) {
    for (const json& each : plan["assumed"])
      if (each.get<std::string>().find(what) != std::string::npos) return true;
    return false;
  };
  const auto names = [](const json& plan) {
    std::vector<std::string> all;
    for (const json& each : plan["boundaries"]) all.push_back(each["boundary"].get<std::string>());
    return all;
  };
  using Names = std::vector<std::string>;
  const auto layout = [&shapes](const char* name) {
    return plan_of({"--model", shapes + name, "--attn-tp", "4", "--attn-dp", "2"});
  };
  const json kimi = layout("kimi-k2");
  EXPECT_EQ(kimi["layers"], 61);
  EXPECT_EQ(kimi["boundaries"][1]["boundary"], "latent attention -> dense MLP");
  EXPECT_EQ(kimi["boundaries"][1]["count"], 1);
  EXPECT_TRUE(assumes(kimi, "whole latent"));
  EXPECT_TRUE(assumes(layout("deepseek-v3.2"), "indexer"));
  EXPECT_TRUE(assumes(layout("deepseek-v3.2"), "num_nextn_predict_layers 1"));
  EXPECT_TRUE(assumes(layout("minimax-m2"), "normalized over all heads"));
  EXPECT_TRUE(assumes(layout("gpt-oss-120b"), "biases"));
  EXPECT_TRUE(assumes(layout("qwen3-vl-235b-a22b"), "the text part alone"));
  EXPECT_EQ(layout("mixtral-8x22b")["assumed"], json::array());
  const json next = layout("qwen3-next-80b-a3b");
  EXPECT_EQ(next["boundaries"][1]["boundary"], "linear attention -> MoE");
  EXPECT_EQ(next["boundaries"][1]["count"], 36);
  EXPECT_EQ(next["boundaries"][1]["addends"].size(), 1U);
  const json& finish = next["boundaries"][1]["finish"];
  EXPECT_EQ(finish["steps"], json({"add", "rms_norm"}));
  EXPECT_EQ(finish["within"], next["boundaries"][1]["operations"].back()["operation"]);
  EXPECT_GE(finish["separate_kernels"].get<int>(), 1);
  EXPECT_GT(next["finish_saved_us"].get<double>(), 0);
  EXPECT_EQ(next["boundaries"][2]["addends"][0]["name"], "shared expert");
  const json oss = layout("gpt-oss-120b");
  EXPECT_EQ(names(oss)[1], "sliding attention -> MoE");
  const json glm = layout("glm-4.5");
  EXPECT_EQ(glm["boundaries"][1]["count"], 3);  // dense
  EXPECT_EQ(names(glm),
            (Names{"embedding -> full attention", "full attention -> dense MLP",
                   "dense MLP -> full attention", "full attention -> MoE", "MoE -> full attention",
                   "MoE -> final norm and LM head", "LM head -> logits"}));
  const Outcome in_words = run({"plan", "--model", shapes + "kimi-k2"});
  EXPECT_CONTAINS(in_words.out, "assumed: every TP rank");
}

/// Models that nobody has heard of yet: from their fields, and so it says.
TEST(Command, PlanOfAModelWithoutAName) {
  const TemporaryDirectory files;
  const std::string few =
      R"({"model_type": "tomorrow", "hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 100,
    "num_attention_heads": 8, "n_routed_experts": 8, "intermediate_size": 32, "moe_layer_freq": [0, 1, 1, 0]})";
  const json plan = plan_of({"--model", files.file("few.json", few), "--attn-tp", "2", "--attn-dp", "2"});
  const std::string assumed = plan["assumed"].dump();
  EXPECT_CONTAINS(assumed, R"(model_type \"tomorrow\")");
  EXPECT_CONTAINS(assumed, "num_key_value_heads is missing");
  EXPECT_CONTAINS(assumed, "moe_intermediate_size is missing");
  EXPECT_EQ(plan["boundaries"][1]["boundary"], "full attention -> dense MLP");
  const auto refusal = [&](const std::string& from, const std::string& to) {
    std::string text = few;
    text.replace(text.find(from), from.size(), to);
    const Outcome outcome = run({"plan", "--model", files.file("wrong.json", text)});
    EXPECT_EQ(outcome.code, 2);
    return outcome.err;
  };
  EXPECT_CONTAINS(refusal("n_routed_experts", "experts"),
                  "none of num_experts, num_local_experts and n_routed_experts");
  EXPECT_CONTAINS(refusal("hidden_size", "size"), "hidden_size is missing");
  EXPECT_CONTAINS(
      refusal("\"moe_layer_freq\": [0, 1, 1, 0]", R"("layer_types": ["a", "b", "\u001b[31m", "c"])"),
      "among its layer_types");
  EXPECT_CONTAINS(refusal("[0, 1, 1, 0]", "[0, 1]"), "2 of moe_layer_freq for 4 layers");
  EXPECT_CONTAINS(refusal("\"intermediate_size\": 32", "\"intermediate_size\": \"x\""), "must be an integer");
}

/// Nothing runs, so a plan may be for a whole cluster.
TEST(Command, PlanOfManyRanks) {
  const std::string deepseek = source + "/models/shapes/deepseek-v3";
  for (const auto& [attn_dp, copies] : {std::pair<std::string, std::string>{"72", "32"}, {"320", "64"}}) {
    const Words words{"--model", deepseek, "--attn-dp", attn_dp, "--moe-ep", attn_dp, "--mlp-tp", "1"};
    Words with_copies = words;
    with_copies.insert(with_copies.end(), {"--redundant-experts", copies});
    const json plan = plan_of(with_copies);
    EXPECT_EQ(plan["boundaries"][3]["operations"][0]["operation"], "all_gather");
    EXPECT_EQ(plan["boundaries"][3]["operations"][0]["link"], "network400");
    EXPECT_CONTAINS(plan["assumed"].dump(), copies + " copies");
    EXPECT_CONTAINS(plan["assumed"].dump(), "more than 64 ranks");
    Words without{"plan"};
    without.insert(without.end(), words.begin(), words.end());
    const Outcome refused = run(without);
    EXPECT_EQ(refused.code, 2);
    EXPECT_CONTAINS(refused.err, fmt::format("with --redundant-experts {} it may be {}", copies, attn_dp));
  }
  EXPECT_GT(plan_of({"--model", source + "/models/shapes/qwen3.5-397b-a17b", "--attn-tp", "16", "--attn-dp",
                     "256", "--moe-tp", "8", "--moe-ep", "512"})["us"]
                .get<double>(),
            0);
  const json comparison = json::parse(
      run({"plan", "--model", deepseek, "--gpus", "256", "--batch", "4096", "--compare", "--json"}).out);
  EXPECT_EQ(comparison["layouts"].size(), 72U);
  EXPECT_CONTAINS(run({"plan", "--model", deepseek, "--attn-tp", "64", "--attn-dp", "65"}).err,
                  "at most 4096");
  EXPECT_CONTAINS(run({"plan", "--model", deepseek, "--attn-dp", "4097"}).err, "--attn-dp");
}

TEST(Command, PlanComparesLayouts) {
  const Words words = {"plan",   "--model",  source + "/models/shapes/qwen3.5-397b-a17b",
                       "--gpus", "8",        "--batch",
                       "64",     "--compare"};
  Words as_json = words;
  as_json.emplace_back("--json");
  const json comparison = json::parse(run(as_json).out);
  EXPECT_EQ(comparison["layouts"].size(), 16U);
  double last = 0;
  for (const json& each : comparison["layouts"]) {
    EXPECT_GE(each["us"].get<double>(), last);
    last = each["us"].get<double>();
    EXPECT_LE(last, each["two_calls_us"].get<double>());
  }
  EXPECT_CONTAINS(run(words).out, "two calls");
}

TEST(Command, PlanTakesConstantsAndDrawsPictures) {
  const TemporaryDirectory files;
  const std::string mine = files.file(
      "mine.json",
      R"({"links": [{"name": "mine", "call_us": 0, "wait_us": 10, "gbps": 1, "source": "a ruler"}]})");
  const std::string tuned =
      files.file("tuned.json", R"({"costs": {"wait_us": 3, "read_gbps": 2, "flag_us": 0}})");
  for (const auto& [constants, wait] : {std::pair(mine, 10.0), {tuned, 3.0}}) {
    const json plan = json::parse(run({"plan", "--model", tiny_model, "--attn-tp", "2", "--attn-dp", "2",
                                       "--constants", constants, "--algorithm", "two_shot", "--json"})
                                      .out);
    const json& operation = plan["boundaries"][1]["operations"][0];
    const double gbps = constants == mine ? 1 : 2;
    EXPECT_NEAR(operation["us"].get<double>(),
                2 * wait + operation["bytes_per_rank"].get<double>() / (gbps * 1000), 1e-6);
  }
  for (const char* name : {"plan.svg", "plan.dot"}) {
    const std::string picture = files.file(name);
    ASSERT_EQ(
        run({"plan", "--model", tiny_model, "--attn-tp", "2", "--attn-dp", "2", "--picture", picture}).code,
        0);
    const std::string text = read_text(picture);
    EXPECT_CONTAINS(text, "all_reduce_all_gather");
    EXPECT_CONTAINS(text, name == std::string("plan.svg") ? "</svg>" : "digraph");
  }
}

TEST(Command, CheckPlan) {
  const Outcome outcome = run({"check", "--plan", "--quick", "--symbolic-ranks", "8", "--real-ranks", "2"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_CONTAINS(outcome.out, "188 mappings");
  EXPECT_CONTAINS(outcome.out, " 0 failed");
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

TEST(Command, CheckPassesWithEpilogues) {
  const Outcome outcome =
      run({"check", "--tp", "2", "--dp", "2", "--quick", "--dtype", "bf16", "--epilogues"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_CONTAINS(outcome.out, "700 passed, 0 failed\n");
}

TEST(Command, BenchRunsWithSeveralThreadsARank) {
  const TemporaryDirectory files;
  const Outcome outcome =
      run({"bench", "--tp", "2", "--threads", "3", "--rows", "64", "--hidden", "1024", "--op", "all_reduce",
           "--algorithm", "auto", "--iterations", "40", "--json", files.file("bench.json")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json result = json::parse(read_text(files.file("bench.json")));
  ASSERT_EQ(result["rows"].size(), 1U);
  EXPECT_EQ(result["rows"][0]["threads"], 3);
  EXPECT_GT(result["rows"][0]["copy_gbps"].get<double>(), 0);
}

TEST(Command, BenchSkipsByNameWhatIsNotThere) {
  setenv("MIXCOMM_PEER_PYTHON", "/nowhere/python", 1);
  const Outcome outcome = run({"bench", "--rows", "1", "--hidden", "64", "--op", "all_reduce", "--iterations",
                               "4", "--against", "deepspeed"});
  unsetenv("MIXCOMM_PEER_PYTHON");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_CONTAINS(outcome.err, "skipped: --against deepspeed: there is no /nowhere/python");
}

TEST(Command, BenchSaysHowToInstallWhatAPythonLacks) {
  if (std::system("python3 -c 'import sys; open(sys.prefix + \"/include/oneapi/ccl.hpp\")' 2>/dev/null") == 0)
    GTEST_SKIP() << "python3 has oneCCL";
  const Outcome outcome = run({"bench", "--rows", "1", "--hidden", "64", "--op", "all_reduce", "--iterations",
                               "4", "--against", "oneccl"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_CONTAINS(outcome.err, "skipped: --against oneccl: ");
  EXPECT_CONTAINS(outcome.err, "pip install --no-deps oneccl==");
}

/// In place of DeepSpeed's operation.
struct PeerStandIn {
  PeerStandIn() { setenv("MIXCOMM_DEEPSPEED_SHM", MIXCOMM_PEER_STAND_IN, 1); }
  ~PeerStandIn() { unsetenv("MIXCOMM_DEEPSPEED_SHM"); }
  PeerStandIn(const PeerStandIn&) = delete;
  PeerStandIn& operator=(const PeerStandIn&) = delete;
};
const Words against_peer = {"bench",        "--processes", "--rows",    "1,4",
                            "--hidden",     "64",          "--op",      "all_reduce,all_gather",
                            "--threads",    "2",           "--against", "deepspeed",
                            "--iterations", "20"};

TEST(Command, BenchMeasuresWhatAPythonProcessLoads) {
  if (std::system("python3 -c '' 2>/dev/null") != 0) GTEST_SKIP() << "there is no python3";
  const PeerStandIn stand_in;
  const TemporaryDirectory files;
  Words words = against_peer;
  words.insert(words.end(), {"--algorithm", "auto", "--json", files.file("bench.json")});
  const Outcome outcome = run(words);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_CONTAINS(outcome.out, "deepspeed");
  const json result = json::parse(read_text(files.file("bench.json")));
  ASSERT_EQ(result["rows"].size(), 4U);
  for (const json& row : result["rows"]) {
    // It has one team of all ranks: what is between DP ranks is left to the others where there are none.
    ASSERT_EQ(row["against"].contains("deepspeed"), row["op"] == "all_reduce") << row.dump();
    if (row["op"] != "all_reduce") continue;
    EXPECT_GT(row["against"]["deepspeed"].get<double>(), 0);
  }
}

TEST(Command, BenchShowsNoFiguresOfAPeersWrongSums) {
  if (std::system("python3 -c '' 2>/dev/null") != 0) GTEST_SKIP() << "there is no python3";
  const PeerStandIn stand_in;
  setenv("MIXCOMM_TEST_WRONG", "1", 1);
  const Outcome outcome = run(against_peer);
  unsetenv("MIXCOMM_TEST_WRONG");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_CONTAINS(outcome.err, "deepspeed (default)");
}

/// The command has GNU's runtime, of the model runner.
TEST(Command, OpenMPsThreadsServeAsWell) {
  setenv("MIXCOMM_WORKERS", "openmp", 1);
  setenv("MIXCOMM_THREADS", "3", 1);
  const TemporaryDirectory files;
  for (const bool processes : {false, true}) {
    Words words = {"bench", "--tp",     "2",    "--threads",    "3", "--rows",
                   "64",    "--hidden", "2048", "--iterations", "20"};
    if (processes) words.emplace_back("--processes");
    const Outcome outcome = run(words);  // which compares the results
    EXPECT_EQ(outcome.code, 0) << outcome.err;
  }
  setenv("MIXCOMM_WORKERS", "magic", 1);
  const Outcome refused = run({"check", "--tp", "2", "--op", "all_reduce"});
  unsetenv("MIXCOMM_WORKERS");
  unsetenv("MIXCOMM_THREADS");
  EXPECT_EQ(refused.code, 2);
  EXPECT_CONTAINS(refused.err, "MIXCOMM_WORKERS is 'magic'; it is openmp");
}

TEST(Command, InfoSaysHowManyThreadsARankHas) {
  setenv("MIXCOMM_THREADS", "7", 1);
  const Outcome outcome = run({"info", "--json"});
  unsetenv("MIXCOMM_THREADS");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json threads = json::parse(outcome.out)["backends"]["cpu"]["threads"];
  EXPECT_EQ(threads["one_rank"], 7);
  EXPECT_EQ(threads["why"], "as asked for");
  EXPECT_CONTAINS(run({"info"}).out, "threads of a rank: ");
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
      EXPECT_EQ(keys, (std::vector<std::string>{
                          "against", "algorithm", "backend",  "bound_us", "buffers", "busbw_gbps", "bytes",
                          "chosen",  "chunks",    "distance", "dp",       "dtype",   "epilogue",   "flag_ns",
                          "hidden",  "op",        "p50_us",   "p99_us",   "rows",    "threads",    "tp"}));
      EXPECT_EQ(row["epilogue"], "none");
      EXPECT_EQ(row["threads"], 1);
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

TEST(Command, BenchMeasuresCallsInPlace) {
  const TemporaryDirectory files;
  const Outcome outcome =
      run({"bench", "--tp", "2", "--hidden", "64", "--rows", "1,40", "--op", "all_reduce", "--buffers", "all",
           "--in-place", "--threads", "2", "--iterations", "8", "--json", files.file("bench.json")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;  // results are compared with exact sums
  for (const json& row : json::parse(read_text(files.file("bench.json")))["rows"])
    EXPECT_TRUE(row["in_place"].get<bool>());
  const Outcome refused = run({"bench", "--in-place", "--op", "all_gather"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_CONTAINS(refused.err, "--in-place is for --backend cpu and --op all_reduce");
}

TEST(Command, BenchMeasuresEpiloguesBesideSeparateSteps) {
  const TemporaryDirectory files;
  const Outcome outcome = run({"bench", "--tp", "2", "--dp", "2", "--uneven", "3,0", "--hidden", "200",
                               "--op", "all", "--algorithm", "one_shot,two_shot", "--epilogue", "all",
                               "--iterations", "8", "--json", files.file("bench.json")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_CONTAINS(outcome.out, "add_rms_norm_fp8");
  const json result = json::parse(read_text(files.file("bench.json")));
  ASSERT_EQ(result["rows"].size(), 30U);
  for (const json& row : result["rows"]) {
    EXPECT_EQ(row["against"].contains("separate"), row["epilogue"] != "none");
    EXPECT_EQ(row["against"].contains("alone"), row["epilogue"] != "none");
    EXPECT_TRUE(row["against"].contains("composed"));
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
