// A rank that is killed, with one process per rank: the others learn who is missing, and build anew.
#include <csignal>
#include <cstdlib>
#include <thread>

#include "bootstrap/socket.hpp"
#include "cuda/support.hpp"

namespace mixcomm::test {
namespace {

using std::chrono::milliseconds;

verify::Case case_of(std::vector<std::size_t> rows, std::uint64_t seed) {
  return {.op = Op::all_reduce_all_gather,
          .algorithm = seed % 2 == 0 ? Algorithm::one_shot : Algorithm::two_shot,
          .dtype = DType::bf16,
          .buffers = verify::Buffers::symmetric,
          .values = verify::Values::floats,
          .rows = std::move(rows),
          .hidden = 512,
          .seed = seed};
}

/// The survivors' calls over a rendezvous of their own.
std::string calls_work(const LaunchInfo& info) {
  const auto bootstrap = bootstrap_processes(info, 4 * patience());
  Communicator communicator(*bootstrap, cuda_options(info.world, 1));
  verify::Verifier verifier(communicator, 1 << 12);
  for (std::uint64_t i = 1; i < 10; ++i)
    if (auto wrong = verifier.run(case_of({2}, i)); !wrong.empty()) return wrong;
  return "";
}

/// Rank 1 of four kills itself in call 20: before it has launched it, or with its kernel running, which waits
/// for a late rank.
void expect_survivors_to_rebuild(bool in_a_kernel) {
  constexpr int killed = 1;
  constexpr std::uint64_t last_call = 20;
  const Fd listener = listen_on("127.0.0.1", 0);
  const LaunchInfo survivors{"test", 0, 3, "127.0.0.1", port_of(listener), random_hex(16)};
  const auto results = spawn_cuda(Ranks::processes, 4, [&](Bootstrap& bootstrap) -> std::string {
    auto options = cuda_options(2, 2);
    options.timeout = milliseconds(3000);
    const int rank = bootstrap.rank();
    {
      Communicator communicator(bootstrap, options);
      verify::Verifier verifier(communicator, 1 << 13);
      try {
        for (std::uint64_t i = 1;; ++i) {
          const verify::Case c = case_of({2, 3}, i);
          if (i == last_call) {
            if (rank == killed && in_a_kernel) {
              verifier.prepare(c);
              verifier.launch();
              std::this_thread::sleep_for(milliseconds(100));
            }
            if (rank == killed) std::raise(SIGKILL);
            if (in_a_kernel && rank == 2) std::this_thread::sleep_for(milliseconds(600));
          }
          if (auto wrong = verifier.run(c); !wrong.empty()) return wrong;
          if (i > last_call + 5) return "no error";
        }
      } catch (const Timeout& error) {
        if (error.missing() != std::vector{killed})
          return std::string("other ranks were named: ") + error.what();
      }
    }
    LaunchInfo mine = survivors;
    mine.rank = rank - (rank > killed ? 1 : 0);
    if (mine.rank == 0) setenv("MIXCOMM_LISTENER", std::to_string(listener.get()).c_str(), 1);
    return calls_work(mine);
  });
  EXPECT_EQ(results[killed], "killed by signal 9");
  for (const std::size_t r : {0U, 2U, 3U}) EXPECT_EQ(results[r], "") << "rank " << r;
}

class FailuresCudaProcesses : public CudaProcessTest {};

TEST_F(FailuresCudaProcesses, SurvivorsOfARankKilledBetweenItsCallsRebuild) {
  expect_survivors_to_rebuild(false);
}

TEST_F(FailuresCudaProcesses, ALateRankIsNoError) {
  const auto results = spawn_cuda(Ranks::processes, 4, [](Bootstrap& bootstrap) -> std::string {
    auto options = cuda_options(2, 2);
    options.timeout = std::max(patience(), Milliseconds(10'000));
    Communicator communicator(bootstrap, options);
    verify::Verifier verifier(communicator, 1 << 13);
    if (bootstrap.rank() == 3) std::this_thread::sleep_for(milliseconds(3000));
    return verifier.run(case_of({2, 3}, 1));
  });
  EXPECT_EQ(failures(results), "");
}

/// Without MPS each process has the GPU to itself in turn, and one that is killed takes nobody along.
class FailuresWithoutMps : public CudaProcessTest {
 protected:
  void SetUp() override { set_up(false); }
};

TEST_F(FailuresWithoutMps, SurvivorsOfARankKilledInAKernelRebuild) {
  expect_survivors_to_rebuild(true);
}

}  // namespace
}  // namespace mixcomm::test
