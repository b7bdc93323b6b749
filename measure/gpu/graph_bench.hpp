// Times CUDA graphs of many calls in a row.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "measure/gpu/gpu_rank.hpp"
#include "measure/meeting.hpp"

namespace mixcomm::tools {

class GraphBench {
 public:
  struct Options {
    std::size_t launches = 20;  ///< of each graph
    bool with_launch = false;   ///< else an untimed launch goes right before each timed one
  };

  /// `ranks`: those that the calling thread drives. One graph holds the calls of them all, a branch for each.
  /// `meeting`: of all ranks, if each thread drives one; null if these are all.
  GraphBench(std::vector<GpuRank*> ranks, Meeting* meeting, const Options& options);
  ~GraphBench();

  struct Result {
    std::vector<Latencies>
        latencies;  ///< by variant; on rank 0's thread alone, and empty for what NCCL or composed cannot do
    std::string wrong;  ///< what these ranks found in the results
  };
  /// Launches the graphs of a cell's variants in turns, and checks what each computes, with new inputs.
  /// Collective. Throws the failures of the communicators.
  [[nodiscard]] Result measure(const Cell& cell);

  /// The same for something else in place of a call. Collective.
  [[nodiscard]] Latencies measure_other(const std::function<void(GpuRank&)>& other);

 private:
  class Event;
  class Graph;
  [[nodiscard]] std::unique_ptr<Graph> capture(const std::function<void(GpuRank&)>& call);
  [[nodiscard]] std::vector<Latencies> time(const std::vector<std::unique_ptr<Graph>>& graphs);
  void launch(const Graph& graph);
  [[nodiscard]] double launch_and_time(const Graph& graph);
  void check_ranks();
  [[nodiscard]] Latencies slowest(const Latencies& mine);
  [[nodiscard]] std::string wrong_results(const Cell& cell, const Variant& variant, const Graph& graph);
  void barrier() {
    if (meeting_ != nullptr) meeting_->barrier();
  }

  std::vector<GpuRank*> ranks_;
  Meeting* meeting_;
  Options options_;
  cudaStream_t origin_ = nullptr;
  std::unique_ptr<Event> begin_;
  std::unique_ptr<Event> end_;
  std::uint64_t round_ = 0;
};

}  // namespace mixcomm::tools
