// A captured CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <stdexcept>

namespace mixcomm::test {

inline void check_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

/// What `enqueue` puts on the stream, to be launched again and again.
class Graph {
 public:
  Graph(void* stream, const std::function<void()>& enqueue) : stream_(static_cast<cudaStream_t>(stream)) {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    enqueue();
    check_cuda(cudaStreamEndCapture(stream_, &graph));
    check_cuda(cudaGraphInstantiate(&executable_, graph, 0));
    check_cuda(cudaGraphDestroy(graph));
    check_cuda(cudaGraphUpload(executable_, stream_));
    check_cuda(cudaStreamSynchronize(stream_));
  }
  ~Graph() { cudaGraphExecDestroy(executable_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch() const { check_cuda(cudaGraphLaunch(executable_, stream_)); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace mixcomm::test
