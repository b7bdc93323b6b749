// The caller's NCCL communicator on one GPU: symmetric memory from its windows, and operations through its
// collectives.
//
// NCCL refuses two ranks on one GPU of one host. So each rank is a process that says it is a host of its own
// (NCCL_HOSTID), and NCCL connects them by sockets: its collectives run for any number of ranks, but no rank
// maps the memory of another. Windows of more than one rank need more GPUs, and are not tested here.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/driver.hpp"
#include "cuda/nccl_comm.hpp"
#include "cuda/nccl_memory.hpp"
#include "cuda/support.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::test {
namespace {

const std::string skipped = "skipped: ";

/// Runs fn on ranks that are processes on device 0; this process touches neither CUDA nor NCCL, or it could
/// not fork.
std::vector<std::string> spawn_on_gpu(int world, const std::function<std::string(Bootstrap&)>& fn) {
  return spawn_cuda(Ranks::processes, world, [&](Bootstrap& bootstrap) -> std::string {
    if (const std::string why = verify::why_no_cuda(); !why.empty()) return skipped + why;
    cuda::check(cudaSetDevice(0), "choosing a device");
    return fn(bootstrap);
  });
}

/// The same with an NCCL communicator over the ranks.
std::vector<std::string> spawn_with_nccl(int world, const std::function<std::string(Bootstrap&, void*)>& fn) {
  return spawn_on_gpu(world, [&](Bootstrap& bootstrap) -> std::string {
    (void)bootstrap.hosts();  // the bootstrap's, to which they are one
    if (world > 1) setenv("NCCL_HOSTID", fmt::format("mixcomm-test-{}", bootstrap.rank()).c_str(), 1);
    setenv("NCCL_SOCKET_IFNAME", "lo", 1);
    setenv("NCCL_IB_DISABLE", "1", 1);
    const Nccl* nccl = Nccl::load();
    if (nccl == nullptr) return skipped + "there is no libnccl.so.2";
    const NcclComm comm(*nccl, bootstrap);
    return fn(bootstrap, comm.get());
  });
}

/// Says why nothing was tested if all ranks say so.
void expect_all_well(const std::vector<std::string>& results) {
  if (std::ranges::all_of(results, [](const std::string& text) { return text.starts_with(skipped); }))
    GTEST_SKIP() << results[0].substr(skipped.size());
  for (const char* cannot : {"built without NCCL's headers", "NCCL makes no windows on this communicator"})
    if (contains(results[0], cannot)) GTEST_SKIP() << results[0];
  EXPECT_EQ(failures(results), "");
}

CommunicatorOptions options_with(void* comm, const GridSize& grid) {
  CommunicatorOptions options = cuda_options(grid.tp, grid.dp);
  options.cuda.nccl = comm;
  return options;
}

/// Every case, or what is wrong with the first wrong one.
std::string run_all(Bootstrap& bootstrap, Communicator& communicator,
                    const std::vector<verify::Case>& cases) {
  verify::Verifier verifier(communicator, verify::most_elements(cases, communicator.grid().dp.size));
  const Departure departure(bootstrap);
  for (const verify::Case& c : cases)
    if (std::string wrong = verifier.run(c); !wrong.empty()) return wrong;
  return "";
}

TEST(NcclWindows, GiveMemoryOfOneRank) {
  const auto results = spawn_with_nccl(1, [](Bootstrap& bootstrap, void* comm) -> std::string {
    const auto provider = cuda::make_nccl_memory_provider(bootstrap, 0, comm, default_timeout);
    if (provider->name() != "NCCL windows") return provider->name();
    for (const std::size_t bytes :
         {std::size_t{1}, std::size_t{4096}, std::size_t{3} << 20U, std::size_t{100} << 20U}) {
      // Twice: the second one's memory may have been the first one's, and must be zero again.
      for (int round = 0; round < 2; ++round) {
        cuda::Slices slices = provider->allocate(bytes);
        if (reinterpret_cast<std::uintptr_t>(slices.first) % 4096 != 0) return "not aligned";
        std::vector<unsigned char> host(bytes, 1);
        cuda::check(cudaMemcpy(host.data(), slices.of(0), bytes, cudaMemcpyDeviceToHost), "reading");
        if (std::ranges::any_of(host, [](unsigned char byte) { return byte != 0; }))
          return fmt::format("{} bytes, round {}: not zeroed", bytes, round);
        std::ranges::fill(host, static_cast<unsigned char>(0xA5));
        cuda::check(cudaMemcpy(slices.of(0), host.data(), bytes, cudaMemcpyHostToDevice), "writing");
        std::ranges::fill(host, static_cast<unsigned char>(0));
        cuda::check(cudaMemcpy(host.data(), slices.of(0), bytes, cudaMemcpyDeviceToHost), "reading again");
        if (std::ranges::any_of(host, [](unsigned char byte) { return byte != 0xA5; }))
          return "not what was written";
        std::thread([last = std::move(slices)]() mutable {
          last = {};
        }).join();  // any thread may be the last
      }
    }
    return "";
  });
  expect_all_well(results);
}

TEST(NcclWindows, GiveAllTheirMemoryBack) {
  const auto results = spawn_with_nccl(1, [](Bootstrap& bootstrap, void* comm) -> std::string {
    constexpr std::size_t bytes = std::size_t{256} << 20U;
    const auto free_bytes = [] {
      std::size_t free = 0;
      std::size_t total = 0;
      cuda::check(cudaMemGetInfo(&free, &total), "asking for free memory");
      return free;
    };
    const auto provider = cuda::make_nccl_memory_provider(bootstrap, 0, comm, default_timeout);
    (void)provider->allocate(bytes);
    const std::size_t before = free_bytes();
    for (int i = 0; i < 20; ++i) (void)provider->allocate(bytes);
    const std::size_t after = free_bytes();
    return after + bytes < before ? fmt::format("{} bytes are gone", before - after) : "";
  });
  expect_all_well(results);
}

TEST(NcclWindows, ServeEveryOperationOfOneRank) {
  const auto results = spawn_with_nccl(1, [](Bootstrap& bootstrap, void* comm) -> std::string {
    CommunicatorOptions options = options_with(comm, {1, 1});
    options.cuda.nccl_windows = true;
    Communicator communicator(bootstrap, options);
    const auto cases =
        verify::cases_of({.tp = 1,
                          .dp = 1,
                          .ops = {},
                          .algorithms = {Algorithm::automatic, Algorithm::one_shot, Algorithm::two_shot,
                                         Algorithm::composed, Algorithm::nccl},
                          .dtypes = {},
                          .large = false,
                          .backend = BackendKind::cuda});
    return run_all(bootstrap, communicator, cases);
  });
  expect_all_well(results);
}

TEST(NcclWindows, RanksThatNcclTakesForNodesAreNamed) {
  const auto results = spawn_with_nccl(2, [](Bootstrap& bootstrap, void* comm) -> std::string {
    CommunicatorOptions options = options_with(comm, {2, 1});
    options.cuda.nccl_windows = true;
    try {
      const Communicator communicator(bootstrap, options);
    } catch (const Unsupported& error) {
      const bool named = contains(error.what(), "rank 0 does not reach these ranks so: 1;");
      return named || contains(error.what(), "built without") ? "" : error.what();
    }
    return "no error";
  });
  expect_all_well(results);
}

TEST(NcclWindows, NeedACommunicator) {
  const auto results = spawn_on_gpu(1, [](Bootstrap& bootstrap) -> std::string {
    CommunicatorOptions options = options_with(nullptr, {1, 1});
    options.cuda.nccl_windows = true;
    try {
      const Communicator communicator(bootstrap, options);
    } catch (const InvalidArgument& error) {
      return contains(error.what(), "give a ncclComm_t there") ? "" : error.what();
    }
    return "no error";
  });
  expect_all_well(results);
}

TEST(NcclCollectives, NeedAnNcclInTheProcess) {
  const auto results = spawn_on_gpu(1, [](Bootstrap& bootstrap) -> std::string {
    int not_a_communicator = 0;
    try {
      const Communicator communicator(bootstrap, options_with(&not_a_communicator, {1, 1}));
    } catch (const Unsupported& error) {
      return contains(error.what(), "this process has no NCCL") || contains(error.what(), "built without")
                 ? ""
                 : error.what();
    }
    return "no error";
  });
  expect_all_well(results);
}

TEST(NcclCollectives, RefuseOtherRanks) {
  const auto results = spawn_with_nccl(1, [](Bootstrap& /*bootstrap*/, void* comm) -> std::string {
    // Alone in NCCL, but one of two ranks of this grid: seen before anything is made, and told to all ranks.
    const auto threads = spawn(Ranks::threads, 2, [comm](Bootstrap& b) -> std::string {
      try {
        const Communicator communicator(b, options_with(comm, {2, 1}));
      } catch (const InvalidArgument& error) {
        return contains(error.what(), "rank 0 of 1, but this is rank 0 of 2") ? "" : error.what();
      }
      return "no error";
    });
    return failures(threads);
  });
  expect_all_well(results);
}

class NcclCollectivesOn : public testing::TestWithParam<GridSize> {};

/// All operations, dtypes, kinds of buffers, even and uneven rows. Sums of small integers: NCCL's order is
/// its own.
TEST_P(NcclCollectivesOn, AreExact) {
  const GridSize grid = GetParam();
  auto cases = verify::cases_of({.tp = grid.tp,
                                 .dp = grid.dp,
                                 .ops = {},
                                 .algorithms = {Algorithm::nccl},
                                 .dtypes = {},
                                 .large = false,
                                 .backend = BackendKind::cuda});
  for (verify::Case& c : cases) c.values = verify::Values::integers;
  // To NCCL all memory is the same, wherever it is from.
  std::erase_if(cases, [](const verify::Case& c) {
    return c.buffers == verify::Buffers::mixed || c.buffers == verify::Buffers::symmetric_in_place;
  });
  const auto results = spawn_with_nccl(grid.world(), [&](Bootstrap& bootstrap, void* comm) -> std::string {
    Communicator communicator(bootstrap, options_with(comm, grid));
    return run_all(bootstrap, communicator, cases);
  });
  expect_all_well(results);
}

INSTANTIATE_TEST_SUITE_P(Grids, NcclCollectivesOn,
                         testing::Values(GridSize{2, 1}, GridSize{1, 2}, GridSize{1, 3}, GridSize{2, 2}),
                         testing::PrintToStringParamName());

TEST(NcclCollectives, ReplayInAGraphWithNewInputs) {
  const GridSize grid{2, 2};
  const auto results = spawn_with_nccl(grid.world(), [&](Bootstrap& bootstrap, void* comm) -> std::string {
    Communicator communicator(bootstrap, options_with(comm, grid));
    std::vector<verify::Case> cases;
    for (const Op op : {Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
                        Op::reduce_scatter_all_reduce}) {
      verify::Case c;
      c.op = op;
      c.algorithm = Algorithm::nccl;
      c.rows = op == Op::all_reduce ? std::vector<std::size_t>{3, 3} : std::vector<std::size_t>{3, 5};
      c.hidden = 64;
      c.seed = 1 + cases.size();
      cases.push_back(c);
    }
    verify::Verifier verifier(communicator, verify::most_elements(cases, grid.dp),
                              static_cast<int>(cases.size()));
    const Departure departure(bootstrap);
    std::vector<PreparedCall> calls;
    for (const verify::Case& c : cases) calls.push_back({&verifier, static_cast<int>(calls.size()), c});
    auto* const stream = static_cast<cudaStream_t>(verifier.device().stream());
    prepare(calls);
    cudaGraph_t graph = nullptr;
    cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a capture");
    launch(calls, stream);
    cuda::check(cudaStreamEndCapture(stream, &graph), "ending a capture");
    cudaGraphExec_t executable = nullptr;
    cuda::check(cudaGraphInstantiate(&executable, graph, 0), "making a graph");
    std::string wrong;
    for (int replay = 0; replay < 5 && wrong.empty(); ++replay) {
      prepare(calls);
      cuda::check(cudaGraphLaunch(executable, stream), "launching a graph");
      cuda::check(cudaStreamSynchronize(stream), "waiting for a graph");
      wrong = check(calls);
    }
    cuda::check(cudaGraphExecDestroy(executable), "destroying a graph");
    cuda::check(cudaGraphDestroy(graph), "destroying a graph");
    return wrong;
  });
  expect_all_well(results);
}

}  // namespace
}  // namespace mixcomm::test
