// Very many calls over lines, each with data of its own and checked in full on the device: a line that does
// not stay together would show what an earlier call left in it.
#include "cuda/line_stress.hpp"

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdlib>

#include "cuda/support.hpp"

namespace mixcomm::test {
namespace {

constexpr std::size_t hidden = 4096;
constexpr std::size_t row_words = hidden / 2;
constexpr std::size_t most_rows = 64;

/// MIXCOMM_STRESS_SECONDS, or 2.
std::chrono::seconds stress_time() {
  const char* text = std::getenv("MIXCOMM_STRESS_SECONDS");
  const long given = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
  return std::chrono::seconds(given > 0 ? given : 2);
}

/// One rank's calls on one grid, captured in a graph: all operations, sizes and algorithms.
class Stress {
 public:
  Stress(Bootstrap& bootstrap, int tp, int dp, verify::Device& device)
      : communicator_(bootstrap, options(tp, dp)), stream_(static_cast<cudaStream_t>(device.stream())) {
    const auto bytes = static_cast<std::size_t>(dp) * most_rows * row_words * 4;
    memory_ = device.allocate(2 * bytes + 64);
    in_ = reinterpret_cast<std::uint32_t*>(memory_.get());
    out_ = in_ + bytes / 4;
    counters_ = reinterpret_cast<std::uint64_t*>(out_ + bytes / 4);
    load_patterns();
    cudaMemset(counters_, 0, 64);
    cudaDeviceSynchronize();
    cudaGraph_t graph = nullptr;
    cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
    for (const std::size_t rows : {std::size_t{1}, std::size_t{3}, std::size_t{16}, most_rows})
      for (const Algorithm algorithm : {Algorithm::one_shot, Algorithm::two_shot})
        for (const int threads : {64, 128, 512}) capture(rows, algorithm, threads);
    cudaStreamEndCapture(stream_, &graph);
    cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
  }
  ~Stress() { cudaGraphExecDestroy(executable_); }
  Stress(const Stress&) = delete;
  Stress& operator=(const Stress&) = delete;

  void launch() { cudaGraphLaunch(executable_, stream_); }
  /// How many words were wrong so far.
  [[nodiscard]] std::uint64_t wrong() {
    std::uint64_t count = 0;
    cudaStreamSynchronize(stream_);
    communicator_.check();
    cudaMemcpy(&count, counters_ + 1, sizeof(count), cudaMemcpyDeviceToHost);
    return count;
  }
  [[nodiscard]] std::size_t calls() const { return calls_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  static CommunicatorOptions options(int tp, int dp) {
    CommunicatorOptions o = cuda_options(tp, dp, Protocol::lines);
    o.workspace_bytes = 0;
    return o;
  }

  void capture(std::size_t rows, Algorithm algorithm, int threads) {
    const Grid& grid = communicator_.grid();
    const auto dp = static_cast<std::size_t>(grid.dp.size);
    const std::size_t block = rows * row_words;
    const CallOptions call{.algorithm = algorithm,
                           .stream = stream_,
                           .shape = {.protocol = Protocol::lines, .lanes = 0, .threads = threads}};
    const Tensor one_in{in_, rows, hidden, DType::bf16};
    const Tensor all_out{out_, rows * dp, hidden, DType::bf16};
    // Any bits where nothing is added, exact sums elsewhere.
    const Pattern pattern{counters_, grid.tp.size > 1};
    write_pattern(pattern, in_, block, grid.rank(), stream_);
    communicator_.all_reduce_all_gather(one_in, all_out, rows, call);
    for (int d = 0; d < grid.dp.size; ++d)
      check_pattern(pattern, out_ + static_cast<std::size_t>(d) * block, block, d * grid.tp.size,
                    grid.tp.size, counters_ + 1, stream_);
    next_call(pattern, stream_);

    const Pattern numbers{counters_, true};
    for (int d = 0; d < grid.dp.size; ++d)  // block d of rank r is a source of its own
      write_pattern(numbers, in_ + static_cast<std::size_t>(d) * block, block,
                    d * grid.world.size + grid.rank(), stream_);
    communicator_.reduce_scatter_all_reduce({in_, rows * dp, hidden, DType::bf16},
                                            {out_, rows, hidden, DType::bf16}, rows, call);
    check_pattern(numbers, out_, block, grid.dp.member * grid.world.size, grid.world.size, counters_ + 1,
                  stream_);
    next_call(numbers, stream_);
    calls_ += 2;
    bytes_ += block * 4 * (dp + 1);
  }

  Communicator communicator_;
  cudaStream_t stream_;
  std::shared_ptr<std::byte> memory_;
  std::uint32_t* in_ = nullptr;
  std::uint32_t* out_ = nullptr;
  std::uint64_t* counters_ = nullptr;  ///< calls, wrong words
  cudaGraphExec_t executable_ = nullptr;
  std::size_t calls_ = 0;
  std::size_t bytes_ = 0;
};

class LineStress : public CudaTest, public testing::WithParamInterface<GridSize> {};

TEST_P(LineStress, NoLineIsTorn) {
  const GridSize grid = GetParam();
  if (gpus_for_tests() > 1 && grid.world() > gpus_for_tests())
    GTEST_SKIP() << "a GPU for each rank is wanted";
  if (const std::string why = why_no_lines(grid.world()); !why.empty()) GTEST_SKIP() << why;
  std::size_t calls = 0;
  std::size_t bytes = 0;
  const auto results = spawn_cuda(Ranks::threads, grid.world(), [&](Bootstrap& bootstrap) -> std::string {
    const auto device = verify::make_device(BackendKind::cuda);
    Stress stress(bootstrap, grid.tp, grid.dp, *device);
    const Departure departure(bootstrap);
    (void)bootstrap.exchange("having brought all kernels onto the device", "");
    const auto end = std::chrono::steady_clock::now() + stress_time();
    std::size_t launches = 0;
    for (bool more = true; more;) {
      for (int i = 0; i < 20; ++i) stress.launch();
      launches += 20;
      if (const std::uint64_t wrong = stress.wrong(); wrong != 0)
        return std::to_string(wrong) + " words are wrong after " + std::to_string(launches) + " launches";
      // All ranks end together.
      more =
          bootstrap.exchange("going on", std::chrono::steady_clock::now() < end ? "yes" : "no")[0] == "yes";
    }
    if (bootstrap.rank() == 0) {
      calls = launches * stress.calls();
      bytes = launches * stress.bytes();
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
  RecordProperty("calls", std::to_string(calls));
  std::printf("%dx%d: %zu calls, %.1f GB compared per rank, nothing wrong\n", grid.tp, grid.dp, calls,
              static_cast<double>(bytes) / 1e9);
}

INSTANTIATE_TEST_SUITE_P(Grids, LineStress,
                         testing::Values(GridSize{2, 1}, GridSize{1, 2}, GridSize{3, 1}, GridSize{1, 3},
                                         GridSize{2, 2}, GridSize{4, 1}, GridSize{1, 4}),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace mixcomm::test
