// The `mixcomm` command with --backend cuda: on machines without a GPU, what it says; with one, what it does
// there.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "command.hpp"

namespace mixcomm::test {
namespace {

using nlohmann::json;

json cuda_info() {
  return json::parse(run({"info", "--json"}).out)["backends"]["cuda"];
}

#define SKIP_WITHOUT_GPU()                                                  \
  if (const json seen = cuda_info(); !seen["available"].get<bool>()) {      \
    GTEST_SKIP() << "no GPU to run on: " << seen["why"].get<std::string>(); \
  }

TEST(CudaCommand, FlagsThatDoNotFitTogetherExitWith2) {
  const std::vector<Mistake> mistakes = {
      {{"bench", "--one-gpu"}, "--one-gpu is for --backend cuda"},
      {{"check", "--one-gpu", "--backend", "cpu"}, "--one-gpu is for --backend cuda"},
      {{"info", "--one-gpu"}, "--one-gpu is for --backend cuda"},
      {{"bench", "--rows-on-device"}, "--rows-on-device is for --backend cuda"},
      {{"bench", "--protocol", "packets"}, "--protocol is for --backend cuda"},
      {{"bench", "--with-launch"}, "--with-launch is for --backend cuda"},
      {{"bench", "--lanes", "8"}, "--lanes is for --backend cuda"},
      {{"bench", "--threads", "1,2"}, "with --backend cpu it is one number"},
      {{"bench", "--threads", "257"}, "at most 256 threads"},
      {{"bench", "--workspace-mib", "8"}, "--workspace-mib is for --backend cuda"},
      {{"bench", "--max-lanes", "8"}, "--max-lanes is for --backend cuda"},
      {{"bench", "--algorithm", "nccl"}, "--algorithm nccl is for --backend cuda"},
      {{"bench", "--backend", "cuda", "--protocol", "pigeons"}, "there are: auto, packets, lines, barriers"},
      {{"bench", "--backend", "cuda", "--seconds", "1"}, "--iterations"},
      {{"bench", "--backend", "cuda", "--against", "openmpi"}, "--against openmpi"},
      {{"bench", "--backend", "cuda", "--one-gpu", "--against", "nccl"}, "add --processes"},
      {{"bench", "--backend", "cuda", "--one-gpu", "--algorithm", "nccl"}, "add --processes"},
      {{"check", "--algorithm", "nccl"}, "no bits to compare"},
      {{"tune", "--one-gpu"}, "--one-gpu is for --backend cuda"},
      {{"tune", "--backend", "cuda", "--tp", "1", "--dp", "1"}, "one rank"},
      {{"tune", "--backend", "cuda", "--most-bytes", "12"}, "--most-bytes"},
      {{"bench", "--backend", "cuda", "--tuning", "/nonexistent.json"}, "/nonexistent.json"},
      {{"check", "--backend", "cuda", "--tuning", "/nonexistent.json"}, "/nonexistent.json"},
      {{"bench", "--backend", "cuda", "--grids", "2by2"}, "2by2"},
      {{"bench", "--grid", "2x2", "--tp", "2"}, "excludes"},
      {{"bench", "--grids", "2x2,2x3", "--uneven", "1,2"}, "2 counts for 3 DP ranks"},
      {{"plan", "--model", tiny_model, "--backend", "tpu"}, "there are: cpu, cuda"},
  };
  expect_explained(mistakes);
}

TEST(CudaCommand, WithoutAGpuItSaysWhy) {
  const json seen = cuda_info();
  if (seen["available"].get<bool>()) GTEST_SKIP() << "there is a GPU";
  const auto why = seen["why"].get<std::string>();
  EXPECT_NE(why, "");
  const TemporaryDirectory files;
  const std::vector<Words> commands = {
      {"info", "--backend", "cuda"},
      {"check", "--backend", "cuda", "--tp", "2"},
      {"check", "--backend", "cuda", "--one-gpu"},
      {"check", "--backend", "cuda", "--tp", "2", "--processes"},
      {"bench", "--backend", "cuda", "--one-gpu", "--grids", "4x2,2x4"},
      {"bench", "--backend", "cuda", "--processes", "--against", "nccl"},
      {"tune", "--backend", "cuda", "--out", files.file("tuning.json")},
      {"tune", "--backend", "cuda", "--one-gpu", "--out", files.file("tuning.json")},
      {"tune", "--backend", "cuda", "--processes", "--out", files.file("tuning.json")},
      {"run", "-n", "2", "--", command, "check", "--backend", "cuda", "--tp", "2"}};
  for (const Words& words : commands) {
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_CONTAINS(outcome.err, "--backend cuda: " + why);
  }
  EXPECT_FALSE(std::filesystem::exists(files.file("tuning.json")));
}

TEST(CudaCommand, PlanNamesWhatCudaWouldRun) {
  const Outcome outcome =
      run({"plan", "--model", tiny_model, "--attn-tp", "4", "--attn-dp", "2", "--backend", "cuda", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json plan = json::parse(outcome.out);  // named: a loop does not keep what it only looks into
  for (const json& boundary : plan["boundaries"])
    for (const json& operation : boundary["operations"]) {
      EXPECT_NE(operation["algorithm"], "auto");
      EXPECT_NE(operation["why_algorithm"], "");
    }
}

TEST(CudaCommand, BenchTakesSeveralGrids) {
  const TemporaryDirectory files;
  const Outcome outcome =
      run({"bench", "--grids", "2x1,1x2", "--rows", "3", "--hidden", "8", "--algorithm", "auto", "--op",
           "all_reduce", "--iterations", "3", "--json", files.file("bench.json")});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json rows = json::parse(read_text(files.file("bench.json")))["rows"];
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0]["tp"], 2);
  EXPECT_EQ(rows[0]["rows"], json({3}));
  EXPECT_EQ(rows[1]["dp"], 2);
  EXPECT_EQ(rows[1]["rows"], json({3, 3}));
}

// --- with a GPU --------------------------------------------------------------------------------------------

TEST(CudaCommand, InfoDescribesTheGpus) {
  SKIP_WITHOUT_GPU();
  const json info = cuda_info();
  EXPECT_FALSE(info["architectures"].empty());
  ASSERT_FALSE(info["devices"].empty());
  const json& device = info["devices"][0];
  EXPECT_NE(device["name"], "");
  EXPECT_GT(device["multiprocessors"].get<int>(), 0);
  EXPECT_GT(device["memory_gib"].get<double>(), 0);
  EXPECT_TRUE(device["multicast"].is_boolean());
  EXPECT_EQ(run({"info", "--backend", "cuda", "--one-gpu"}).code, 0);
}

/// From each to each, and the same backwards.
TEST(CudaCommand, InfoNamesTheLinksBetweenGpus) {
  SKIP_WITHOUT_GPU();
  const json devices = cuda_info()["devices"];
  const std::string text = run({"info"}).out;
  for (std::size_t a = 0; a < devices.size(); ++a) {
    const json& links = devices[a]["links"];
    ASSERT_EQ(links.size(), devices.size());
    EXPECT_EQ(links[a], "one GPU");
    for (std::size_t b = 0; b < devices.size(); ++b) {
      EXPECT_EQ(links[b], devices[b]["links"][a]);
      if (a != b) {
        EXPECT_TRUE(links[b] == "NVLink" || links[b] == "PCIe") << links[b];
        EXPECT_CONTAINS(text, links[b].get<std::string>() + " to ");
      }
    }
  }
}

TEST(CudaCommand, RanksThatShareAGpuMustBeAskedFor) {
  SKIP_WITHOUT_GPU();
  if (cuda_info()["devices"].size() > 1) GTEST_SKIP() << "there is a GPU for each of two ranks";
  const Outcome outcome = run({"check", "--backend", "cuda", "--tp", "2"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_CONTAINS(outcome.err, "--one-gpu");
}

TEST(CudaCommand, ProcessesThatShareAGpuNeedMps) {
  SKIP_WITHOUT_GPU();
  for (const Words& words : {Words{"info", "--backend", "cuda", "--one-gpu", "--processes"},
                             Words{"check", "--backend", "cuda", "--one-gpu", "--processes", "--tp", "2"}}) {
    const Outcome outcome = run(words, {{"CUDA_MPS_PIPE_DIRECTORY", "/nonexistent"}});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_CONTAINS(outcome.err, "nvidia-cuda-mps-control -d");
  }
}

TEST(CudaCommand, CheckPassesOnOneGpu) {
  SKIP_WITHOUT_GPU();
  const Outcome outcome = run({"check", "--backend", "cuda", "--one-gpu", "--tp", "2", "--dp", "2", "--rows",
                               "3", "--hidden", "50", "--dtype", "bf16"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_CONTAINS(outcome.out, " passed, 0 failed\n");
}

TEST(CudaCommand, CheckPassesWithAGpuForEachRank) {
  SKIP_WITHOUT_GPU();
  const std::size_t gpus = cuda_info()["devices"].size();
  if (gpus < 2) GTEST_SKIP() << "two ranks need a GPU each, and there is one";
  const Words what = {"--rows", "3", "--hidden", "50", "--dtype", "bf16"};
  for (const std::string grids : {"2x1,1x2", "2x2,4x1"}) {
    const std::string ranks = grids == "2x1,1x2" ? "2" : "4";
    if (gpus < std::stoul(ranks)) continue;
    const Words check = {"check", "--backend", "cuda", "--grids", grids};
    const std::vector<Words> commands = {
        check, {"check", "--backend", "cuda", "--grids", grids, "--processes"}, {"run", "-n", ranks, "--"}};
    for (Words words : commands) {
      if (words[0] == "run") {
        words.push_back(command);
        words.insert(words.end(), check.begin(), check.end());
      }
      words.insert(words.end(), what.begin(), what.end());
      const Outcome outcome = run(words);
      EXPECT_EQ(outcome.code, 0) << outcome.err;
      EXPECT_CONTAINS(outcome.out, " passed, 0 failed\n");
    }
  }
}

/// Of ranks that share a GPU, and of ranks that have one each, where there are two.
TEST(CudaCommand, ATableOfTuneIsUsedAndGuarded) {
  SKIP_WITHOUT_GPU();
  const TemporaryDirectory files;
  const std::string table = files.file("table.json");
  const bool several = cuda_info()["devices"].size() > 1;
  for (const bool one_gpu : {true, false}) {
    if (!one_gpu && !several) continue;
    const auto on_gpus = [&](Words words, const Words& more) {
      words.insert(words.end(), {"--backend", "cuda"});
      if (one_gpu) words.emplace_back("--one-gpu");
      words.insert(words.end(), more.begin(), more.end());
      return run(words);
    };
    const Outcome tuned = on_gpus(
        {"tune"}, {"--tp", "2", "--dp", "1", "--seconds", "0", "--most-bytes", "65536", "--out", table});
    ASSERT_EQ(tuned.code, 0) << tuned.err;
    EXPECT_CONTAINS(tuned.out, "written to");
    const json written = json::parse(read_text(table));
    EXPECT_EQ(written["backend"], "cuda");
    EXPECT_EQ(written["choices"].size(), 6U);  // three operations, two kinds of memory
    EXPECT_GT(written["costs"]["read_gbps"].get<double>(), 0);
    const Outcome benched =
        on_gpus({"bench"}, {"--tp", "2", "--dp", "1", "--rows", "1", "--hidden", "64", "--algorithm", "auto",
                            "--iterations", "3", "--tuning", table});
    EXPECT_EQ(benched.code, 0) << benched.err;
    const Outcome checked =
        on_gpus({"check"}, {"--tp", "2", "--dp", "1", "--quick", "--dtype", "bf16", "--tuning", table});
    EXPECT_EQ(checked.code, 0) << checked.err;
    const Outcome other = on_gpus({"bench"}, {"--tp", "1", "--dp", "2", "--tuning", table});
    EXPECT_EQ(other.code, 2);
    EXPECT_CONTAINS(other.err, "tp 2 x dp 1");
    const Outcome elsewhere = run({"bench", "--tp", "2", "--dp", "1", "--tuning", table});
    EXPECT_EQ(elsewhere.code, 2);
    EXPECT_CONTAINS(elsewhere.err, "backend cuda");
  }
}

TEST(CudaCommand, BenchOnOneGpuWritesItsSchema) {
  SKIP_WITHOUT_GPU();
  const TemporaryDirectory files;
  const Outcome outcome = run({"bench",
                               "--backend",
                               "cuda",
                               "--one-gpu",
                               "--grids",
                               "2x2",
                               "--uneven",
                               "3,0",
                               "--rows-on-device",
                               "--hidden",
                               "64",
                               "--op",
                               "all_reduce_all_gather",
                               "--buffers",
                               "all",
                               "--protocol",
                               "all",
                               "--iterations",
                               "3",
                               "--json",
                               files.file("bench.json")},
                              {{"MIXCOMM_COMMIT", "0123456789ab"}});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const json result = json::parse(read_text(files.file("bench.json")));
  EXPECT_EQ(result["machine"]["commit"], "0123456789ab");
  EXPECT_NE(result["machine"]["gpu"]["name"], "");
  ASSERT_EQ(result["rows"].size(),
            16U);  // one_shot in three ways, two_shot in four, and composed, in two kinds of memory
  for (const json& row : result["rows"]) {
    EXPECT_EQ(row["backend"], "cuda");
    EXPECT_EQ(row["ranks"], "streams of one GPU");
    EXPECT_GT(row["floor_us"].get<double>(), 0);
    EXPECT_GT(row["p50_us"].get<double>(), 0);
    EXPECT_EQ(row["rows_on_device"].get<bool>(), row["algorithm"] != "composed");
  }
}

}  // namespace
}  // namespace mixcomm::test
