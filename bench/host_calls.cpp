// What a call takes from C++: one rank, 1 x 64 elements of bf16, as in python_calls.py, which runs this and
// puts the two beside each other.
//
// Prints JSON, microseconds per call: {"cpu": {"call_us"}, "cuda copy": {"call_us", "graph_us"}, "cuda
// kernel": {...}}. On CUDA a call is over for the host when it is on the stream (call_us); graph_us is what
// one of 50 in a captured graph takes on the device. One rank alone copies; with row counts in device memory
// it runs a kernel.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "mixcomm/mixcomm.hpp"

#ifdef MIXCOMM_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace {

constexpr std::size_t hidden = 64;

/// Of several rounds, the microseconds per call in the best one. `settle` comes before each, and is not
/// timed.
double best_us(const std::function<void()>& call, int times, int rounds,
               const std::function<void()>& settle) {
  using Clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int r = 0; r < rounds; ++r) {
    settle();
    const auto start = Clock::now();
    for (int i = 0; i < times; ++i) call();
    best = std::min(best, std::chrono::duration<double, std::micro>(Clock::now() - start).count() / times);
  }
  return best;
}

double on_cpu(mixcomm::Bootstrap& bootstrap) {
  mixcomm::Communicator communicator(bootstrap, {});
  std::vector<mixcomm::bf16> in(hidden);
  std::vector<mixcomm::bf16> out(hidden);
  return best_us(
      [&] {
        communicator.all_reduce_all_gather(mixcomm::tensor(in.data(), 1, hidden),
                                           mixcomm::tensor(out.data(), 1, hidden), 1);
      },
      10'000, 9, [] {});
}

#ifdef MIXCOMM_HAS_CUDA

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

template <class T>
T* on_device(const std::vector<T>& elements) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, elements.size() * sizeof(T)));
  check(cudaMemcpy(memory, elements.data(), elements.size() * sizeof(T), cudaMemcpyHostToDevice));
  return static_cast<T*>(memory);
}

/// Of one call in a graph of 50, on the device, when 100 of them are launched in a row.
double graph_us(const std::function<void()>& call, cudaStream_t stream) {
  constexpr int calls = 50;
  constexpr int launches = 100;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) call();
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  float best_ms = std::numeric_limits<float>::infinity();
  for (int round = 0; round < 9; ++round) {
    check(cudaGraphLaunch(executable, stream));  // so that the launches are ahead of the device
    check(cudaEventRecord(begin, stream));
    for (int i = 0; i < launches; ++i) check(cudaGraphLaunch(executable, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    best_ms = std::min(best_ms, ms);
  }
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
  return static_cast<double>(best_ms) * 1000 / launches / calls;
}

std::string on_cuda(mixcomm::Bootstrap& bootstrap) {
  mixcomm::Communicator communicator(bootstrap, {.backend = mixcomm::BackendKind::cuda});
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  auto* in = on_device(std::vector<mixcomm::bf16>(hidden));
  auto* out = on_device(std::vector<mixcomm::bf16>(hidden));
  const auto* counts = on_device(std::vector<std::int64_t>{1});
  const auto settle = [&] { check(cudaStreamSynchronize(stream)); };
  std::string text;
  for (const bool counted : {false, true}) {
    const auto call = [&] {
      communicator.all_reduce_all_gather(
          mixcomm::tensor(in, 1, hidden), mixcomm::tensor(out, 1, hidden),
          counted ? mixcomm::RowCounts::on_device(counts, 1) : mixcomm::RowCounts(1), {.stream = stream});
    };
    text += fmt::format(R"(, "cuda {}": {{"call_us": {:.3f}, "graph_us": {:.3f}}})",
                        counted ? "kernel" : "copy", best_us(call, 200, 50, settle), graph_us(call, stream));
  }
  settle();
  communicator.check();
  return text;
}

#else

std::string on_cuda(mixcomm::Bootstrap& /*bootstrap*/) {
  return "";
}

#endif

}  // namespace

int main() {
  const auto ranks = mixcomm::bootstrap_threads(1);
  std::string text = fmt::format(R"("cpu": {{"call_us": {:.3f}}})", on_cpu(*ranks[0]));
  try {
    text += on_cuda(*ranks[0]);
  } catch (const mixcomm::Error& error) {
    fmt::print(stderr, "host_calls: no CUDA: {}\n", error.what());
  }
  fmt::print("{{{}}}\n", text);
}
