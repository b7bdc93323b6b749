// A layer's way into the MoE on the GPUs of one host or of several: attention TP inside a host, DP across, in
// a CUDA graph. One process for each GPU, which torchrun or srun starts, host by host; on several hosts with
// MIXCOMM_SECRET, the same on all (docs/guide.md, "Several hosts"). By itself it is one rank.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <mixcomm/mixcomm.hpp>
#include <vector>

namespace {

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(status));
  std::exit(1);
}

void one_layer(mixcomm::Bootstrap& bootstrap, int gpus) {
  // A host is a TP group. Hosts have as many ranks each.
  const mixcomm::Hosts hosts = bootstrap.hosts();
  const std::vector<int> here = hosts.ranks_on(hosts.of[static_cast<std::size_t>(bootstrap.rank())]);
  const int gpu = (bootstrap.rank() - here.front()) % gpus;
  check(cudaSetDevice(gpu));
  mixcomm::Communicator communicator(bootstrap, {.tp = static_cast<int>(here.size()),
                                                 .dp = hosts.count(),
                                                 .backend = mixcomm::BackendKind::cuda,
                                                 .cuda = {.device = gpu}});

  // Each DP rank has rows of its own: 2, 3, 2, 3, ...
  constexpr std::size_t hidden = 128;
  std::vector<std::size_t> rows;
  std::size_t all = 0;
  for (int d = 0; d < hosts.count(); ++d) all += rows.emplace_back(2 + static_cast<std::size_t>(d) % 2);
  const std::size_t own = rows[static_cast<std::size_t>(communicator.grid().dp.member)];
  const auto partial = communicator.allocate(3 * hidden * sizeof(float));
  const auto complete = communicator.allocate(all * hidden * sizeof(float));
  const std::vector<float> ones(own * hidden, 1.0F);
  check(cudaMemcpy(partial.data(), ones.data(), own * hidden * sizeof(float), cudaMemcpyHostToDevice));

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t step = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  communicator.all_reduce_all_gather(mixcomm::tensor(partial.as<const float>(), own, hidden),
                                     mixcomm::tensor(complete.as<float>(), all, hidden), rows,
                                     {.stream = stream});
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&step, graph, 0));
  for (int token = 0; token < 10; ++token) check(cudaGraphLaunch(step, stream));
  check(cudaStreamSynchronize(stream));
  communicator.check();  // throws what went wrong on the stream, and names who is missing

  std::vector<float> got(all * hidden);
  check(cudaMemcpy(got.data(), complete.data(), got.size() * sizeof(float), cudaMemcpyDeviceToHost));
  bool right = true;
  for (const float each : got) right = right && each == static_cast<float>(here.size());
  std::printf("rank %d of %d hosts: %zu rows are %s\n", bootstrap.rank(), hosts.count(), all,
              right ? "complete" : "WRONG");
  check(cudaGraphExecDestroy(step));  // before the communicator: what crosses hosts is NCCL's
  check(cudaGraphDestroy(graph));
  check(cudaStreamDestroy(stream));
}

}  // namespace

int main() {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) {
    std::fprintf(stderr, "there is no GPU\n");
    return 77;
  }
  try {
    const auto bootstrap = mixcomm::bootstrap_processes(mixcomm::launch_info());
    one_layer(*bootstrap, gpus);
  } catch (const mixcomm::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
