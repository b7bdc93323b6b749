// Random operations, with and without an epilogue, many in a row without a wait in between, every one with
// fresh inputs and compared in full.
#include <cuda_runtime_api.h>

#include <cstdlib>

#include "cuda/delay.hpp"
#include "cuda/support.hpp"
#include "support/random.hpp"
#include "verify/numbers.hpp"

namespace mixcomm::test {
namespace {

constexpr int batch = 16;
constexpr std::size_t most_hidden = 1024;
constexpr std::size_t most_rows = 4;
constexpr std::size_t most_finished_hidden =
    512;  ///< a row of each rank fits the workspace of all grids here

verify::Case random_case(Random& random, int dp, std::uint64_t seed) {
  using enum Algorithm;
  constexpr std::size_t hiddens[] = {1, 7, 8, 64, 96, 130, 256, 512, most_hidden};
  verify::Case c;
  c.op = static_cast<Op>(random.below(5));
  c.algorithm = random.one_of({automatic, one_shot, one_shot, two_shot, two_shot, two_shot, composed});
  c.dtype = random.one_of({DType::bf16, DType::bf16, DType::fp16, DType::fp32});
  c.buffers = static_cast<verify::Buffers>(random.below(5));
  c.values = verify::Values::floats;
  c.rows = random_rows(random, dp, most_rows, 4);
  c.hidden = random.one_of(hiddens);
  c.seed = seed;
  const bool in_place =
      c.buffers == verify::Buffers::in_place || c.buffers == verify::Buffers::symmetric_in_place;
  const bool can_count_on_device =
      c.algorithm != composed && (!in_place || c.op == Op::all_reduce || dp == 1);
  if (can_count_on_device && random.once_in(4)) c.most = most_rows;
  if (random.once_in(3) && c.hidden <= most_finished_hidden)
    c.steps = verify::some_steps(random.next(), c.buffers);
  if (c.algorithm == composed) c.steps.quantize = Quantize::none;  // which has no FP8 between its two
  return c;
}

/// Two streams of one rank, of which each waits for the other when work moves over to it.
class TwoStreams {
 public:
  TwoStreams(void* first, void* second)
      : streams_{static_cast<cudaStream_t>(first), static_cast<cudaStream_t>(second)} {
    cudaEventCreateWithFlags(&event_, cudaEventDisableTiming);
  }
  ~TwoStreams() { cudaEventDestroy(event_); }
  TwoStreams(const TwoStreams&) = delete;
  TwoStreams& operator=(const TwoStreams&) = delete;

  cudaStream_t use(int index) {
    if (index != current_) {
      cudaEventRecord(event_, streams_[current_]);
      cudaStreamWaitEvent(streams_[index], event_, 0);
      current_ = index;
    }
    return streams_[index];
  }
  [[nodiscard]] cudaError_t synchronize() const { return cudaStreamSynchronize(streams_[current_]); }

 private:
  cudaStream_t streams_[2];
  cudaEvent_t event_ = nullptr;
  int current_ = 0;
};

std::string run_random(Bootstrap& bootstrap, const std::vector<CommunicatorOptions>& grids, long operations) {
  const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
  const auto second_device = verify::make_device(BackendKind::cuda);
  load_delay();
  std::vector<std::unique_ptr<Communicator>> communicators;
  std::vector<std::unique_ptr<verify::Verifier>> verifiers;
  for (const CommunicatorOptions& options : grids) {
    communicators.push_back(std::make_unique<Communicator>(bootstrap, options));
    const std::size_t most = most_rows * most_hidden * static_cast<std::size_t>(options.dp);
    verifiers.push_back(std::make_unique<verify::Verifier>(*communicators.back(), device, most, batch));
  }
  TwoStreams streams(device->stream(), second_device->stream());
  const Departure departure(bootstrap);

  Random shared(1);
  Random mine(100 + static_cast<std::uint64_t>(bootstrap.rank()));
  std::uint64_t seed = 0;
  for (long done = 0; done < operations; done += batch) {
    std::vector<PreparedCall> calls;
    for (int slot = 0; slot < batch; ++slot) {
      const std::size_t which = shared.below(grids.size());
      calls.push_back({verifiers[which].get(), slot, random_case(shared, grids[which].dp, ++seed * 1001)});
    }
    prepare(calls);
    for (const PreparedCall& call : calls) {
      const cudaStream_t stream = streams.use(shared.once_in(4) ? 1 : 0);
      if (mine.once_in(16)) delay_on(stream, static_cast<int>(mine.below(40)));
      call.verifier->launch_on(stream, call.slot);
    }
    if (const cudaError_t status = streams.synchronize(); status != cudaSuccess)
      return cudaGetErrorString(status);
    if (auto wrong = check(calls); !wrong.empty())
      return "batch " + std::to_string(done / batch) + ": " + wrong;
  }
  return "";
}

/// MIXCOMM_RANDOM_OPS, or 2000.
long operations_wanted() {
  const char* text = std::getenv("MIXCOMM_RANDOM_OPS");
  const long given = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
  return given > 0 ? given : 2000;
}

class RandomCuda : public CudaTest {};

/// Those of them that these ranks can have. Collective.
std::vector<CommunicatorOptions> usable(Bootstrap& bootstrap, std::vector<CommunicatorOptions> wanted) {
  if (!has_lines(bootstrap))
    std::erase_if(wanted, [](const auto& each) { return each.cuda.protocol == Protocol::lines; });
  return wanted;
}

TEST_F(RandomCuda, OperationsOfEightRanksAreBitExact) {
  const long operations = operations_wanted();
  const auto results = spawn_cuda(Ranks::threads, 8, [&](Bootstrap& bootstrap) {
    return run_random(
        bootstrap,
        usable(bootstrap, {cuda_options(4, 2, Protocol::packets), cuda_options(4, 2, Protocol::barriers),
                           cuda_options(4, 2, Protocol::lines), cuda_options(2, 4, Protocol::lines),
                           cuda_options(2, 4, Protocol::automatic), cuda_options(8, 1, Protocol::automatic)}),
        operations);
  });
  EXPECT_EQ(failures(results), "") << "of " << operations << " operations";
  RecordProperty("operations", std::to_string(operations));
}

TEST_F(RandomCuda, OperationsOfSixRanksAreBitExact) {
  const long operations = operations_wanted() / 10;
  const auto results = spawn_cuda(Ranks::threads, 6, [&](Bootstrap& bootstrap) {
    return run_random(
        bootstrap,
        usable(bootstrap, {cuda_options(3, 2, Protocol::packets), cuda_options(2, 3, Protocol::barriers),
                           cuda_options(1, 6, Protocol::lines), cuda_options(1, 6, Protocol::automatic)}),
        operations);
  });
  EXPECT_EQ(failures(results), "") << "of " << operations << " operations";
}

/// Nothing is shared but the links: what two ranks on one GPU would hide.
TEST_F(RandomCuda, OperationsWithAGpuForEachRankAreBitExact) {
  const int gpus = gpus_for_tests();
  if (gpus < 2) GTEST_SKIP() << "MIXCOMM_TEST_GPUS is not set to two or more";
  const long operations = operations_wanted();
  std::vector<CommunicatorOptions> grids;
  for (const Protocol protocol :
       {Protocol::packets, Protocol::lines, Protocol::barriers, Protocol::automatic})
    for (int tp = 1; tp <= gpus; ++tp)
      if (gpus % tp == 0) grids.push_back(cuda_options(tp, gpus / tp, protocol));
  const auto results = spawn_cuda(Ranks::threads, gpus, [&](Bootstrap& bootstrap) {
    return run_random(bootstrap, usable(bootstrap, grids), operations);
  });
  EXPECT_EQ(failures(results), "") << "of " << operations << " operations";
}

}  // namespace
}  // namespace mixcomm::test
