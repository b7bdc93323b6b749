// What launchers tell a process, alone and inside of one another.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>
#include <optional>

#include "bootstrap/launch.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"

namespace mixcomm::test {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

LaunchInfo info_of(const std::vector<Variables>& generations) {
  return launch_info_of(generations);
}
std::string refusal(const std::vector<Variables>& generations) {
  return error_of<InvalidArgument>([&] { (void)launch_info_of(generations); });
}

/// Variables of several launchers, set side by side.
Variables together(std::initializer_list<Variables> parts) {
  Variables all;
  for (Variables part : parts) all.merge(part);
  return all;
}

// --- one launcher

TEST(Launchers, NoneIsOneRank) {
  const auto info = info_of({Variables{}});
  EXPECT_EQ(info.launcher, "");
  EXPECT_EQ(info.world, 1);
}

TEST(Launchers, TheVariablesOfThisProcessAreRead) {
  for (const auto& [name, value] : variables_of_this_process())
    ASSERT_EQ(value, std::getenv(name.c_str())) << name;
  setenv("MIXCOMM_RANK", "1", 1);
  setenv("MIXCOMM_WORLD_SIZE", "2", 1);
  setenv("MIXCOMM_PORT", "1234", 1);
  setenv("MIXCOMM_LAUNCHER", "mixcomm", 1);  // whatever launcher runs this test
  const auto info = launch_info();
  for (const char* name : {"MIXCOMM_RANK", "MIXCOMM_WORLD_SIZE", "MIXCOMM_PORT", "MIXCOMM_LAUNCHER"})
    unsetenv(name);
  EXPECT_EQ(info.rank, 1);
  EXPECT_EQ(info.world, 2);
}

TEST(Launchers, MixcommRun) {
  const auto info = info_of({{{"MIXCOMM_RANK", "2"},
                              {"MIXCOMM_WORLD_SIZE", "4"},
                              {"MIXCOMM_HOST", "127.0.0.1"},
                              {"MIXCOMM_PORT", "1234"},
                              {"MIXCOMM_SECRET", "x"}}});
  EXPECT_EQ(info.launcher, "mixcomm run");
  EXPECT_EQ(info.rank, 2);
  EXPECT_EQ(info.world, 4);
  EXPECT_EQ(info.port, 1234);
  EXPECT_EQ(info.secret, "x");
}

TEST(Launchers, Torchrun) {
  const auto info =
      info_of({{{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node7"}, {"MASTER_PORT", "29500"}}});
  EXPECT_EQ(info.launcher, "torchrun");
  EXPECT_EQ(info.host, "node7");
  EXPECT_EQ(info.port, 29501);  // 29500 is the store of torchrun
}

TEST(Launchers, OpenMpiFindsAPortByItself) {
  const Variables variables{
      {"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "8"}, {"PMIX_NAMESPACE", "1234567"}};
  const auto info = info_of({variables});
  EXPECT_EQ(info.launcher, "Open MPI");
  EXPECT_EQ(info.rank, 3);
  EXPECT_GE(info.port, 10'000);
  EXPECT_LT(info.port, 30'000);
  EXPECT_EQ(info.port, info_of({variables}).port);
}

Variables step(const std::string& job, const std::string& number, int rank, int ranks) {
  return {{"SLURM_PROCID", std::to_string(rank)},
          {"SLURM_NTASKS", std::to_string(ranks)},
          {"SLURM_JOB_ID", job},
          {"SLURM_STEP_ID", number},
          {"SLURM_TASK_PID", std::to_string(100 + rank)}};
}

TEST(Launchers, SlurmsJobAndStepGiveThePort) {
  const auto info = info_of({step("77", "1", 0, 2)});
  EXPECT_EQ(info.launcher, "Slurm");
  EXPECT_NE(info.port, 0);
  EXPECT_EQ(info.port, info_of({step("77", "1", 1, 2)}).port);
  EXPECT_NE(info.port, info_of({step("77", "2", 0, 2)}).port);
  EXPECT_NE(info_of({step("1", "11", 0, 2)}).port, info_of({step("11", "1", 0, 2)}).port);
}

/// sbatch's script is one process, whatever the job's number of tasks; so is the shell of salloc.
TEST(Launchers, TheScriptOfASlurmJobIsNoRank) {
  const Variables script{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}, {"SLURM_JOB_ID", "77"}};
  EXPECT_EQ(info_of({script}).launcher, "");
  EXPECT_EQ(info_of({{{"SLURM_PROCID", "0"}, {"SLURM_JOB_ID", "77"}}}).launcher, "");
  EXPECT_EQ(info_of({step("77", "4294967290", 0, 2)}).launcher, "");
  EXPECT_EQ(info_of({step("77", "4294967291", 0, 2)}).launcher, "");
}

/// srun --mpi=pmi2, as Slurm 22.05 sets it, and Flux. PMI itself names no place.
TEST(Launchers, PmiBesideTheLauncherThatSetItAgrees) {
  const Variables pmi{{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}, {"PMI_FD", "11"}, {"PMI_JOBID", "77.0"}};
  const Variables srun = together({step("77", "0", 0, 2), pmi});
  const auto slurm = info_of({srun});
  EXPECT_EQ(slurm.launcher, "Slurm");
  EXPECT_EQ(slurm.port, info_of({step("77", "0", 0, 2)}).port);
  EXPECT_NE(slurm.port, info_of({together({step("77", "1", 0, 2), pmi})}).port);
  EXPECT_NE(info_of({pmi}).port, 0) << "PMI_JOBID alone";

  const Variables flux{{"FLUX_TASK_RANK", "1"},
                       {"FLUX_JOB_SIZE", "2"},
                       {"FLUX_JOB_ID", "f2"},
                       {"PMI_RANK", "1"},
                       {"PMI_SIZE", "2"}};
  EXPECT_EQ(info_of({flux}).launcher, "Flux");
  EXPECT_EQ(info_of({flux}).rank, 1);
  EXPECT_NE(info_of({flux}).port, 0);
}

TEST(Launchers, MpichNeedsAMeetingPlace) {
  const Variables variables{{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}};
  EXPECT_TRUE(contains(refusal({variables}), "set MASTER_ADDR and MASTER_PORT"));
  EXPECT_EQ(info_of({together({variables, {{"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "2000"}}})}).port,
            2001);
}

TEST(Launchers, PmixDoesNotSayHowManyRanksThereAre) {
  const Variables prterun{{"PMIX_RANK", "1"}, {"PMIX_NAMESPACE", "prterun-vm-1@1"}};
  const auto text = refusal({prterun});
  EXPECT_TRUE(contains(text, "PMIX_RANK=1")) << text;
  EXPECT_TRUE(contains(text, "set MIXCOMM_WORLD_SIZE")) << text;
  const auto info = info_of({together({prterun, {{"MIXCOMM_WORLD_SIZE", "4"}}})});
  EXPECT_EQ(info.rank, 1);
  EXPECT_EQ(info.world, 4);
  EXPECT_NE(info.port, 0);
  // mpirun of Open MPI 5 sets both.
  const Variables mpirun =
      together({prterun, {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}}});
  EXPECT_EQ(info_of({mpirun}).launcher, "Open MPI");
  EXPECT_EQ(info_of({mpirun}).world, 2);
}

TEST(Launchers, WrongValuesAreNamed) {
  EXPECT_TRUE(
      contains(refusal({{{"RANK", "two"}, {"WORLD_SIZE", "2"}}}), "RANK=two should be a number from 0 to 1"));
  EXPECT_TRUE(
      contains(refusal({{{"RANK", "2"}, {"WORLD_SIZE", "2"}}}), "RANK=2 should be a number from 0 to 1"));
  EXPECT_TRUE(contains(refusal({{{"RANK", "2"}}}), "WORLD_SIZE is not set"));
}

// --- launchers inside of launchers. Generations: this process, its parent, that one's parent ...

const Variables shell{{"PATH", "/bin"}};

Variables mpirun(int rank, int ranks) {
  return {{"PATH", "/bin"},
          {"OMPI_COMM_WORLD_RANK", std::to_string(rank)},
          {"OMPI_COMM_WORLD_SIZE", std::to_string(ranks)},
          {"OMPI_FILE_LOCATION", fmt::format("/tmp/ompi.9/1/{}", rank)},
          {"PMIX_RANK", std::to_string(rank)},
          {"PMIX_NAMESPACE", "prterun-vm-9@1"}};
}
Variables torchrun(int rank, int ranks) {
  return {{"PATH", "/bin"},
          {"RANK", std::to_string(rank)},
          {"WORLD_SIZE", std::to_string(ranks)},
          {"MASTER_ADDR", "localhost"},
          {"MASTER_PORT", "4000"},
          {"TORCHELASTIC_RUN_ID", "739bfc5b"}};
}
Variables mpich(int rank, int ranks) {
  return {{"PATH", "/bin"},
          {"PMI_RANK", std::to_string(rank)},
          {"PMI_SIZE", std::to_string(ranks)},
          {"PMI_FD", std::to_string(9 + rank)}};
}

TEST(NestedLaunchers, TheInnermostCounts) {
  for (const int rank : {0, 1, 2, 3}) {
    // mpirun -n 1 torchrun --nproc-per-node 4; a wrapper script around the rank changes nothing
    const Variables agent = mpirun(0, 1);
    const Variables inner = together({torchrun(rank, 4), agent});
    for (const auto& generations :
         {std::vector{inner, agent, shell}, std::vector{inner, inner, inner, agent, agent, shell, shell}}) {
      const auto info = info_of(generations);
      EXPECT_EQ(info.launcher, "torchrun");
      EXPECT_EQ(info.rank, rank);
      EXPECT_EQ(info.world, 4);
      EXPECT_EQ(info.port, 4001);
    }
    // torchrun --nproc-per-node 1, whose process starts mpirun -n 4
    const auto info = info_of({together({mpirun(rank, 4), torchrun(0, 1)}), torchrun(0, 1), shell});
    EXPECT_EQ(info.launcher, "Open MPI");
    EXPECT_EQ(info.rank, rank);
    EXPECT_EQ(info.world, 4);
  }
}

/// Also where a process happens to have the same rank and size in both: all of its job must find one place.
TEST(NestedLaunchers, TheInnermostCountsWhereBothSayTheSame) {
  const Variables agent = mpirun(0, 2);
  const auto first = info_of({together({torchrun(0, 2), agent}), agent, shell});
  const auto second = info_of({together({torchrun(1, 2), agent}), agent, shell});
  EXPECT_EQ(first.launcher, "torchrun");
  EXPECT_EQ(second.launcher, "torchrun");
  EXPECT_EQ(first.port, second.port);
}

TEST(NestedLaunchers, SlurmAroundOthersIsTheUsualCase) {
  for (const int node : {0, 1}) {
    const Variables agent = step("77", "0", node, 2);  // srun torchrun, one agent a node
    const auto info = info_of({together({torchrun(4 * node + 3, 8), agent}), agent});
    EXPECT_EQ(info.launcher, "torchrun");
    EXPECT_EQ(info.rank, 4 * node + 3);
    EXPECT_EQ(info.world, 8);
  }
  // MPICH's mpirun in a job starts its proxy through srun: SLURM_PROCID=0 SLURM_NTASKS=1 in all ranks.
  const Variables proxy = step("77", "0", 0, 1);
  const auto info = info_of({together({mpich(1, 2), proxy, {{"MASTER_PORT", "2000"}}}), proxy});
  EXPECT_EQ(info.launcher, "MPICH");
  EXPECT_EQ(info.rank, 1);
}

TEST(NestedLaunchers, LeftOverVariablesDoNotCount) {
  const Variables left_over{{"PMI_RANK", "0"}, {"PMI_SIZE", "1"}};
  EXPECT_EQ(info_of({together({torchrun(1, 2), left_over}), left_over}).launcher, "torchrun");
  const Variables damaged{{"RANK", "two"}};
  EXPECT_EQ(info_of({together({mpirun(1, 2), damaged}), damaged}).launcher, "Open MPI");
  const Variables alone{{"RANK", "0"}, {"WORLD_SIZE", "2"}};  // what rank 0 of an inner torchrun has as well
  const Variables agent = together({mpirun(0, 1), alone});
  EXPECT_EQ(info_of({together({torchrun(0, 2), mpirun(0, 1)}), agent, alone}).launcher, "torchrun");
}

/// A rank that hands its number to what it starts, as wrapper scripts for PyTorch do.
TEST(NestedLaunchers, ThoseThatAgreeShareWhatTheyKnow) {
  const Variables rank = mpirun(1, 2);
  const Variables handed_on = together({rank, {{"RANK", "1"}, {"WORLD_SIZE", "2"}}});
  EXPECT_EQ(info_of({handed_on, rank, shell}).port, info_of({rank, shell}).port);
}

TEST(NestedLaunchers, ThatContradictEachOtherAreRefusedWhereNothingTellsWhichIsTheInner) {
  // RANK=0 WORLD_SIZE=1 srun -n 2: the step's daemon starts the task with both
  const Variables left_over{{"RANK", "0"}, {"WORLD_SIZE", "1"}};
  const Variables task = together({step("77", "0", 1, 2), left_over});
  for (const auto& generations :
       {std::vector{task}, std::vector{task, shell}, std::vector{task, task, shell}}) {
    const auto text = refusal(generations);
    for (const char* part : {"torchrun (RANK=0 WORLD_SIZE=1)", "Slurm (SLURM_PROCID=1 SLURM_NTASKS=2)",
                             "contradict each other", "MIXCOMM_LAUNCHER=torchrun or slurm"})
      EXPECT_TRUE(contains(text, part)) << part << " is not in: " << text;
  }
  // Rank 0 sees another size, too.
  EXPECT_TRUE(contains(refusal({together({step("77", "0", 0, 2), left_over})}), "contradict each other"));
}

TEST(NestedLaunchers, MIXCOMM_LAUNCHERNamesTheOneThatCounts) {
  const Variables task = together({step("77", "0", 1, 2), {{"RANK", "0"}, {"WORLD_SIZE", "1"}}});
  const auto with = [&](const std::string& name) { return together({task, {{"MIXCOMM_LAUNCHER", name}}}); };
  EXPECT_EQ(info_of({with("slurm")}).rank, 1);
  EXPECT_EQ(info_of({with("torchrun")}).world, 1);
  EXPECT_EQ(info_of({with("none")}).launcher, "");
  EXPECT_TRUE(contains(refusal({with("openmpi")}), "OMPI_COMM_WORLD_RANK"));
  const auto text = refusal({with("lsf")});
  EXPECT_TRUE(contains(text, "MIXCOMM_LAUNCHER=lsf is none of mixcomm, openmpi")) << text;
}

/// Else two jobs that one job started would meet each other.
TEST(NestedLaunchers, ThePlaceOfTheOuterOneIsNotTheInners) {
  const Variables outer{{"MIXCOMM_RANK", "0"},
                        {"MIXCOMM_WORLD_SIZE", "2"},
                        {"MIXCOMM_HOST", "127.0.0.1"},
                        {"MIXCOMM_PORT", "1234"},
                        {"MIXCOMM_SECRET", "theirs"}};
  const auto info = info_of({together({mpirun(1, 2), outer}), outer, shell});
  EXPECT_EQ(info.launcher, "Open MPI");
  EXPECT_EQ(info.port, info_of({mpirun(1, 2)}).port);
  EXPECT_EQ(info.secret, "");
  const auto text = refusal({together({mpich(1, 2), torchrun(0, 2)}), torchrun(0, 2), shell});
  EXPECT_TRUE(contains(text, "nothing says where they meet")) << text;
  EXPECT_TRUE(contains(text, "MASTER_PORT=4000 came with torchrun, around it")) << text;
  const Variables pmix{{"PMIX_RANK", "1"}, {"PMIX_NAMESPACE", "x"}};
  EXPECT_TRUE(contains(refusal({together({pmix, outer}), outer, shell}), "set MIXCOMM_WORLD_SIZE"));

  // What was set for the ranks themselves is theirs, inside of what launcher ever.
  const Variables set{{"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "2000"}};
  const Variables around = together({step("77", "0", 0, 1), set});
  EXPECT_EQ(info_of({together({mpich(1, 2), around}), around, set}).port, 2001);
  const Variables own_place{{"MIXCOMM_PORT", "4321"}, {"MIXCOMM_SECRET", "ours"}};
  const auto anew = info_of({together({mpich(1, 2), own_place, outer}), together({own_place, outer}), outer});
  EXPECT_EQ(anew.port, 4321);
  EXPECT_EQ(anew.secret, "ours");
}

TEST(Generations, ProgramsThatWroteOverTheirVariablesHaveNone) {
  using namespace std::string_literals;
  EXPECT_EQ(variables_in("A=1\0B=x=y\0C=\0"s), (Variables{{"A", "1"}, {"B", "x=y"}, {"C", ""}}));
  EXPECT_TRUE(variables_in("vllm: worker 3\0\0\0B=2\0"s).empty());
  EXPECT_TRUE(variables_in("\0\0\0B=2\0"s).empty());
  EXPECT_TRUE(variables_in("").empty());
}

TEST(Generations, BeginWithThisProcess) {
  setenv("MIXCOMM_TEST_GENERATIONS", "1", 1);
  const auto all = generations();
  unsetenv("MIXCOMM_TEST_GENERATIONS");
  ASSERT_FALSE(all.empty());
  EXPECT_TRUE(all[0].contains("MIXCOMM_TEST_GENERATIONS"));
  for (std::size_t i = 1; i < all.size(); ++i) EXPECT_FALSE(all[i].contains("MIXCOMM_TEST_GENERATIONS")) << i;
}

}  // namespace
}  // namespace mixcomm::test
