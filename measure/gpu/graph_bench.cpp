// Built with CUDA only.
#include "measure/gpu/graph_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cuda/driver.hpp"

namespace mixcomm::tools {
namespace {

using cuda::check;

constexpr int calls_per_graph = 50;
constexpr int warm_up_launches = 3;

/// NCCL may have no such operation, and composed not every epilogue.
bool may_be_left_out(const Cell& cell, const Variant& variant) {
  return variant.algorithm == Algorithm::nccl ||
         (variant.algorithm == Algorithm::composed && cell.epilogue != EpilogueKind::none);
}

}  // namespace

class GraphBench::Event {
 public:
  explicit Event(unsigned flags = cudaEventDefault) {
    check(cudaEventCreateWithFlags(&event_, flags), "making an event");
  }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) const { check(cudaEventRecord(event_, stream), "recording an event"); }
  void hold_back(cudaStream_t stream) const {
    check(cudaStreamWaitEvent(stream, event_, 0), "making a stream wait for an event");
  }
  void wait() const { check(cudaEventSynchronize(event_), "waiting for an event"); }
  [[nodiscard]] double us_since(const Event& begin) const {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin.event_, event_), "reading the time between two events");
    return static_cast<double>(ms) * 1000;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class GraphBench::Graph {
 public:
  /// Takes the graph.
  explicit Graph(cudaGraph_t graph) {
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "instantiating a graph");
  }
  ~Graph() { cudaGraphExecDestroy(executable_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void upload(cudaStream_t stream) const { check(cudaGraphUpload(executable_, stream), "uploading a graph"); }
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(executable_, stream), "launching a graph"); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

GraphBench::GraphBench(std::vector<GpuRank*> ranks, Meeting* meeting, const Options& options)
    : ranks_(std::move(ranks)), meeting_(meeting), options_(options) {
  check(cudaStreamCreateWithFlags(&origin_, cudaStreamNonBlocking), "making a stream");
  begin_ = std::make_unique<Event>();
  end_ = std::make_unique<Event>();
}

GraphBench::~GraphBench() {
  cudaStreamDestroy(origin_);
}

std::unique_ptr<GraphBench::Graph> GraphBench::capture(const std::function<void(GpuRank&)>& call) {
  const Event fork(cudaEventDisableTiming);
  std::vector<std::unique_ptr<Event>> joins;
  for (std::size_t r = 0; r < ranks_.size(); ++r)
    joins.push_back(std::make_unique<Event>(cudaEventDisableTiming));
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(origin_, cudaStreamCaptureModeThreadLocal), "beginning to capture a graph");
  try {
    fork.record(origin_);
    for (const GpuRank* rank : ranks_) fork.hold_back(rank->stream());
    // Call by call, so that no rank's branch is far ahead of another's wherever they are put in one order.
    for (int i = 0; i < calls_per_graph; ++i)
      for (GpuRank* rank : ranks_) call(*rank);
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      joins[r]->record(ranks_[r]->stream());
      joins[r]->hold_back(origin_);
    }
  } catch (...) {
    // The streams leave the capture, with an error that tells nothing new.
    if (cudaStreamEndCapture(origin_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(origin_, &graph), "capturing a graph");
  auto result = std::make_unique<Graph>(graph);
  result->upload(origin_);
  check(cudaStreamSynchronize(origin_), "uploading a graph");
  return result;
}

void GraphBench::launch(const Graph& graph) {
  barrier();
  graph.launch(origin_);
  end_->record(origin_);
  end_->wait();
}

double GraphBench::launch_and_time(const Graph& graph) {
  barrier();
  if (!options_.with_launch) graph.launch(origin_);
  begin_->record(origin_);
  graph.launch(origin_);
  end_->record(origin_);
  end_->wait();
  return end_->us_since(*begin_) / calls_per_graph;
}

void GraphBench::check_ranks() {
  for (const GpuRank* rank : ranks_) rank->check();
}

Latencies GraphBench::slowest(const Latencies& mine) {
  if (meeting_ == nullptr) return mine;
  const Grid& grid = ranks_.front()->grid();
  const auto place = meeting_->latencies(grid.rank());
  for (std::size_t i = 0; i < mine.size(); ++i) place[i] = static_cast<float>(mine[i]);
  barrier();
  Latencies longest = mine;
  for (int r = 0; r < grid.world.size; ++r)
    for (std::size_t i = 0; i < mine.size(); ++i)
      longest[i] = std::max(longest[i], static_cast<double>(meeting_->latencies(r)[i]));
  barrier();  // before any of them is written again
  return longest;
}

std::vector<Latencies> GraphBench::time(const std::vector<std::unique_ptr<Graph>>& graphs) {
  std::vector<Latencies> latencies(graphs.size());
  for (int i = 0; i < warm_up_launches; ++i)
    for (const auto& graph : graphs)
      if (graph) launch(*graph);
  check_ranks();
  for (std::size_t l = 0; l < options_.launches; ++l)
    for (std::size_t i = 0; i < graphs.size(); ++i) {
      const std::size_t which = (i + l) % graphs.size();  // none is always behind the same other one
      if (graphs[which]) latencies[which].push_back(launch_and_time(*graphs[which]));
    }
  check_ranks();
  for (Latencies& each : latencies) each = slowest(each);
  return latencies;
}

std::string GraphBench::wrong_results(const Cell& cell, const Variant& variant, const Graph& graph) {
  ++round_;
  for (GpuRank* rank : ranks_) rank->prepare(cell, variant, round_);
  launch(graph);
  check_ranks();
  for (GpuRank* rank : ranks_)
    if (const std::string wrong = rank->wrong(cell, variant, round_); !wrong.empty())
      return fmt::format("{} {} {}: {}", name(cell.op), to_string(variant), name(cell.buffers), wrong);
  return "";
}

GraphBench::Result GraphBench::measure(const Cell& cell) {
  std::vector<std::unique_ptr<Graph>> graphs;
  for (const Variant& variant : cell.variants) {
    for (GpuRank* rank : ranks_) rank->prepare(cell, variant, round_);
    std::unique_ptr<Graph> graph;
    try {
      // NCCL reaches its peers in the first call that needs them, and cannot while a graph is captured.
      if (variant.algorithm == Algorithm::nccl) {
        barrier();
        for (GpuRank* rank : ranks_) rank->enqueue(cell, variant);
        for (const GpuRank* rank : ranks_)
          check(cudaStreamSynchronize(rank->stream()), "waiting for NCCL's first call");
      }
      graph = capture([&](GpuRank& rank) { rank.enqueue(cell, variant); });
    } catch (const Unsupported& error) {
      // On every rank alike, before anything has run.
      if (!may_be_left_out(cell, variant)) throw;
      if (ranks_.front()->grid().rank() == 0)
        fmt::print(stderr, "bench: {} is left out: {}\n", to_string(variant), error.what());
    }
    graphs.push_back(std::move(graph));
  }
  Result result{time(graphs), ""};
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    if (!graphs[i]) continue;
    // Goes on behind a wrong one, since the other ranks do.
    const std::string wrong = wrong_results(cell, cell.variants[i], *graphs[i]);
    if (result.wrong.empty()) result.wrong = wrong;
  }
  return result;
}

Latencies GraphBench::measure_other(const std::function<void(GpuRank&)>& other) {
  std::vector<std::unique_ptr<Graph>> graphs;
  graphs.push_back(capture(other));
  return time(graphs).front();
}

}  // namespace mixcomm::tools
