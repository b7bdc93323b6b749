// mixcomm tune, and what goes by its tables; mixcomm bench against other MPIs.
#include <nlohmann/json.hpp>

#include "tools/command/command.hpp"

namespace mixcomm::test {
namespace {

using nlohmann::json;

struct Files {
  std::filesystem::path directory;
  Files() {
    std::string name = testing::TempDir() + "mixcomm_tune_XXXXXX";
    directory = mkdtemp(name.data());
  }
  ~Files() { std::filesystem::remove_all(directory); }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return directory / name; }
};

std::string contents(const std::string& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

Outcome invoke(const Words& words, const Environment& environment = {}) {
  return Running(words, environment).finish(std::chrono::seconds(240));
}

TEST(Tune, ItsTableIsUsedAndGuarded) {
  const Files files;
  const std::string table = files.file("table.json");
  const Outcome tuned =
      invoke({"tune", "--tp", "2", "--dp", "1", "--seconds", "0", "--most-bytes", "16384", "--out", table});
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  EXPECT_CONTAINS(tuned.out, "written to");
  const json written = json::parse(contents(table));
  EXPECT_EQ(written["version"], 1);
  EXPECT_EQ(written["tp"], 2);
  EXPECT_EQ(written["choices"].size(), 6U);  // three operations, two kinds of memory
  EXPECT_GT(written["costs"]["wait_us"].get<double>(), 0);

  const Words bench = {"bench", "--rows", "1", "--hidden", "64", "--algorithm", "auto", "--iterations", "4"};
  const auto with = [](Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Words here = with(bench, {"--tp", "2", "--dp", "1"});
  EXPECT_EQ(invoke(with(here, {"--tuning", table})).code, 0);
  EXPECT_EQ(invoke(with(here, {"--processes"}), {{"MIXCOMM_TUNING", table}}).code, 0);
  EXPECT_EQ(invoke({"check", "--tp", "2", "--dp", "1", "--quick", "--dtype", "bf16", "--tuning", table}).code,
            0);
  const Outcome planned =
      invoke({"plan", "--model", tiny_model, "--attn-tp", "2", "--attn-dp", "1", "--tuning", table});
  EXPECT_EQ(planned.code, 0) << planned.err;

  const Outcome other_grid = invoke(with(bench, {"--tp", "1", "--dp", "2", "--tuning", table}));
  EXPECT_EQ(other_grid.code, 2);
  EXPECT_CONTAINS(other_grid.err, "tp 2 x dp 1");
  const Outcome other_plan =
      invoke({"plan", "--model", tiny_model, "--attn-tp", "2", "--attn-dp", "2", "--tuning", table});
  EXPECT_EQ(other_plan.code, 2);
  EXPECT_CONTAINS(other_plan.err, "tp 2 x dp 1");

  std::string text = contents(table);
  text.replace(text.find("\"tp\": 2"), 7, "\"tp\": 3");
  const std::string damaged = files.file("damaged.json");
  std::ofstream(damaged) << text;
  const Outcome refused = invoke(with(here, {"--tuning", damaged}));
  EXPECT_EQ(refused.code, 2);
  EXPECT_CONTAINS(refused.err, "damaged");
  EXPECT_EQ(invoke(with(here, {"--tuning", files.file("missing.json")})).code, 2);
}

TEST(Tune, RefusesWhatItCannotMeasure) {
  EXPECT_CONTAINS(invoke({"tune", "--tp", "1", "--dp", "1"}).err, "one rank");
  EXPECT_CONTAINS(invoke({"tune", "--one-gpu"}).err, "--one-gpu is for --backend cuda");
}

/// Two calls of each MPI beside ours, where it is installed; else what to install.
class Against : public testing::TestWithParam<const char*> {};

TEST_P(Against, MeasuresTheSameCallsOrSaysWhatToInstall) {
  const std::string mpi = GetParam();
  const Files files;
  const bool built =
      std::filesystem::exists(std::filesystem::path(command).parent_path() / ("mixcomm-mpi-" + mpi));
  for (const char* dtype : {"bf16", "fp32"}) {
    const Outcome outcome = invoke({"bench",        "--processes",
                                    "--tp",         "2",
                                    "--dp",         "2",
                                    "--uneven",     "2,1",
                                    "--op",         "all",
                                    "--hidden",     "64",
                                    "--algorithm",  "auto",
                                    "--iterations", "4",
                                    "--dtype",      dtype,
                                    "--against",    mpi,
                                    "--json",       files.file("bench.json")});
    if (outcome.code == 2 && outcome.err.find("install") != std::string::npos) {
      EXPECT_FALSE(built && std::system(("command -v mpiexec." + mpi + " >/dev/null").c_str()) == 0);
      EXPECT_CONTAINS(outcome.err, "scripts/setup --mpi");
      GTEST_SKIP() << mpi << " is not installed: " << outcome.err;
    }
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_CONTAINS(outcome.out, mpi);
    const json result = json::parse(contents(files.file("bench.json")));
    ASSERT_EQ(result["rows"].size(), 5U);
    for (const json& row : result["rows"]) {
      EXPECT_GT(row["against"][mpi].get<double>(), 0);
      EXPECT_GT(row["against"]["composed"].get<double>(), 0);
      EXPECT_TRUE(row["settings"][mpi].is_string());
      EXPECT_GT(row["bound_us"].get<double>(), 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Mpi, Against, testing::Values("openmpi", "mpich"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace mixcomm::test
