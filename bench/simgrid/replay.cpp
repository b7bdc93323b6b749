// The schedule of an operation on several hosts, replayed under SimGrid's SMPI: scripts/simulate-hosts builds
// it with smpicxx and starts it with smpirun on a described cluster. Who sends what to whom is the library's
// own (hosts/shares.hpp and scatter_plan.hpp, choose()); what a message takes is SimGrid's.
//
//   replay RANKS_PER_HOST TP HIDDEN ROWS,... NICS CALL_US WAIT_US GBPS LATENCY_US NETWORK_GBPS WITHIN
//
// Both operations for each number of rows. WITHIN messages: what ranks of a host exchange are messages over
// the links inside it, whose latency is WAIT_US; delay: they take what predict() says of them. Rank 0 prints
// one line of JSON for each operation, with what predict() says.
#include <mpi.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "algorithms/blocks.hpp"
#include "hosts/crossing.hpp"
#include "hosts/host_map.hpp"
#include "hosts/host_team.hpp"
#include "hosts/scatter_plan.hpp"
#include "hosts/shares.hpp"
#include "mixcomm/choice.hpp"
#include "mixcomm/cost.hpp"

namespace {

using namespace mixcomm;

struct Cluster {
  int per_host = 8;
  int tp = 8;
  std::size_t hidden = 4096;
  bool messages_within = true;
  CostModel model;
};

/// SimGrid's clock; nothing but this and messages moves it.
void sleep_us(double us) {
  const double ns = us * 1000;
  timespec pause{static_cast<time_t>(ns / 1e9), 0};
  pause.tv_nsec = static_cast<long>(ns - static_cast<double>(pause.tv_sec) * 1e9);
  nanosleep(&pause, nullptr);
}

constexpr std::size_t size_of_row_element = 2;  // bf16

class Replay {
 public:
  Replay(const Cluster& cluster, int rank, int world)
      : cluster_(cluster),
        dp_(world / cluster.tp),
        grid_(Grid::of(cluster.tp, dp_, rank)),
        parts_(parts_on(world, cluster)),
        host_(static_cast<std::size_t>(rank / cluster.per_host)),
        own_(team_.own(static_cast<int>(host_))) {}
  ~Replay() { SMPI_SHARED_FREE(buffer_); }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  /// Gathers: HostsBackend::gather_here and across.
  void all_reduce_all_gather(std::size_t rows) {
    const std::size_t block = rows * cluster_.hidden;
    const std::vector<Range> runs = runs_of(block);
    run_within(Op::all_reduce_all_gather, cluster_.tp, here().dp, runs[host_].size);
    if (parts_.size() == 1) return;
    std::vector<int> members;
    for (const HostPart& part : parts_) members.push_back(part.ranks);
    const Passages passages = passages_of(runs, members, host_, own_);
    cross(passages, size_of_row_element);
    if (here().ranks == 1) return;
    for (std::size_t h = 0; h < parts_.size(); ++h)
      if (h != host_ && runs[h].size > 0) run_within(Op::all_gather, 1, here().ranks, runs[h].size);
  }

  /// Scatters: what each host's ranks have of each host's blocks is added up there, the partial sums cross in
  /// fp32, and those of a TP group hand out what each has finished.
  void reduce_scatter_all_reduce(std::size_t rows) {
    const std::size_t block = rows * cluster_.hidden;
    const std::vector<Range> runs = runs_of(block);
    if (parts_.size() == 1) return run_within(Op::reduce_scatter_all_reduce, cluster_.tp, dp_, runs[0].size);
    for (std::size_t i = 1; i <= parts_.size(); ++i)
      run_within(Op::reduce_scatter, 1, here().ranks, runs[(host_ + i) % parts_.size()].size,
                 Algorithm::one_shot);
    std::vector<std::size_t> begins;
    for (int d = 0; d <= dp_; ++d) begins.push_back(static_cast<std::size_t>(d) * block);
    const ScatterPlan plan(team_, std::move(begins), granule);
    const Passages passages = plan.passages(static_cast<int>(host_));
    cross(passages, sizeof(float));
    run_within(Op::all_gather, 1, cluster_.tp, block, Algorithm::automatic, own_ / cluster_.tp * cluster_.tp);
  }

 private:
  static std::vector<HostPart> parts_on(int world, const Cluster& cluster) {
    Hosts hosts;
    for (int r = 0; r < world; ++r) hosts.of.push_back(r / cluster.per_host);
    for (int h = 0; h <= hosts.of.back(); ++h) hosts.names.push_back(std::to_string(h));
    return parts_of(hosts, cluster.tp);
  }
  [[nodiscard]] const HostPart& here() const { return parts_[host_]; }

  /// Equal blocks: class Blocks has room for those of a communicator alone.
  [[nodiscard]] std::vector<Range> runs_of(std::size_t block) const {
    std::vector<Range> runs;
    for (const HostPart& part : parts_)
      runs.push_back(
          {static_cast<std::size_t>(part.first_dp) * block, static_cast<std::size_t>(part.dp) * block});
    return runs;
  }

  /// Crossing::run: streams in messages of most_chunk_bytes, chunks_under_way of each at once. All streams go
  /// on to their next message together.
  void cross(const Passages& passages, std::size_t element) {
    struct Lane {
      int peer;
      std::size_t bytes;
      bool outgoing;
    };
    std::vector<Lane> lanes;
    std::size_t most = 0;
    for (const bool outgoing : {false, true})
      for (const Passage& each : outgoing ? passages.out : passages.in) {
        const std::size_t bytes = each.elements.size * element;
        lanes.push_back({team_.rank(each.host, each.member), bytes, outgoing});
        most = std::max(most, bytes);
      }
    std::vector<std::vector<MPI_Request>> rounds;
    const std::size_t chunks = (most + most_chunk_bytes - 1) / most_chunk_bytes;
    for (std::size_t c = 0; c < chunks; ++c) {
      std::vector<MPI_Request>& begun = rounds.emplace_back();
      for (const Lane& lane : lanes) {
        const std::size_t begin = c * most_chunk_bytes;
        if (begin >= lane.bytes) continue;
        const int bytes = static_cast<int>(std::min(most_chunk_bytes, lane.bytes - begin) + header_bytes);
        begun.push_back(lane.outgoing ? send(lane.peer, bytes) : receive(lane.peer, bytes));
      }
      if (c + 1 >= chunks_under_way) wait(rounds[c + 1 - chunks_under_way]);
    }
    for (std::vector<MPI_Request>& each : rounds) wait(each);
  }

  /// An operation on tp x dp ranks of this host, from member `first` on, `elements` in the tensor with all
  /// rows.
  void run_within(Op op, int tp, int dp, std::size_t elements, Algorithm algorithm = Algorithm::automatic,
                  int first = 0) {
    const std::size_t bytes = elements * size_of_row_element;
    const Operation operation{.op = op, .tp = tp, .dp = dp, .bytes = bytes};
    CostModel model = cluster_.model;
    model.per_node = tp * dp;
    const Prediction p = predict(operation, model, algorithm);
    if (p.us == 0) return;
    if (!cluster_.messages_within) return sleep_us(p.us);
    sleep_us(model.link.call_us);
    const auto m = static_cast<std::size_t>(tp * dp);
    const std::size_t block = bytes / static_cast<std::size_t>(dp);
    if (p.algorithm == Algorithm::one_shot) return exchange(first, tp * dp, block);
    // two_shot: a piece of each block is summed up by each rank of its TP group, then handed out (or
    // backwards).
    const bool gathers = shape_of(op).body == Body::gather;
    const int group = (own_ - first) / tp * tp + first;
    const auto sum = [&] { exchange(group, tp, block / static_cast<std::size_t>(tp)); };
    const auto all = [&] { exchange(first, tp * dp, bytes / m); };
    if (gathers) sum();
    all();
    if (!gathers) sum();
  }

  /// Each of some members of this host gets as many bytes of each other one; alone: it waits once all the
  /// same.
  void exchange(int first, int members, std::size_t bytes) {
    if (members == 1) return sleep_us(cluster_.model.link.wait_us);
    std::vector<MPI_Request> begun;
    for (const bool outgoing : {false, true})
      for (int i = 1; i < members; ++i) {
        const int step = outgoing ? i : members - i;
        const int peer = here().first_rank + first + (own_ - first + step) % members;
        begun.push_back(outgoing ? send(peer, static_cast<int>(bytes))
                                 : receive(peer, static_cast<int>(bytes)));
      }
    wait(begun);
  }

  MPI_Request send(int to, int bytes) {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(buffer_, bytes, MPI_BYTE, to, 0, MPI_COMM_WORLD, &request);
    return request;
  }
  MPI_Request receive(int from, int bytes) {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Irecv(buffer_, bytes, MPI_BYTE, from, 0, MPI_COMM_WORLD, &request);
    return request;
  }
  /// One by one: SMPI's MPI_Waitall() looks at all that are left after each.
  static void wait(std::vector<MPI_Request>& requests) {
    for (MPI_Request& each : requests) MPI_Wait(&each, MPI_STATUS_IGNORE);
    requests.clear();
  }

  static constexpr std::size_t header_bytes = 192;  // of a chunk: the call, and where it belongs

  const Cluster& cluster_;
  int dp_;
  Grid grid_;
  std::vector<HostPart> parts_;
  HostTeam team_{TeamKind::world, grid_, parts_};
  std::size_t host_;
  int own_;
  // One memory for all messages of all ranks: nobody reads what is in it, so SimGrid copies nothing.
  void* buffer_ = SMPI_SHARED_MALLOC(std::size_t{4} << 20U);
};

void print(const Cluster& cluster, Op op, std::size_t rows, int world, double us) {
  const int dp = world / cluster.tp;
  const Operation operation{
      .op = op,
      .tp = cluster.tp,
      .dp = dp,
      .bytes = rows * static_cast<std::size_t>(dp) * cluster.hidden * size_of_row_element};
  const Prediction p = predict(operation, cluster.model);
  std::printf(
      "{\"op\": \"%s\", \"ranks\": %d, \"ranks_per_host\": %d, \"tp\": %d, \"rows\": %zu, \"simulated_us\": "
      "%.3f, "
      "\"predicted_us\": %.3f, \"before_us\": %.3f, \"across_us\": %.3f, \"after_us\": %.3f, "
      "\"bytes_per_rank\": %.0f, \"bytes_per_host\": %.0f}\n",
      std::string(name(op)).c_str(), world, cluster.per_host, cluster.tp, rows, us, p.us, p.across.before_us,
      p.across.us, p.across.after_us, p.across.bytes_per_rank, p.across.bytes_per_node);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  if (argc != 12) {
    std::fprintf(stderr, "this is started by scripts/simulate-hosts\n");
    return 2;
  }
  int rank = 0;
  int world = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world);
  Cluster cluster;
  cluster.per_host = std::min(std::atoi(argv[1]), world);
  cluster.tp = std::atoi(argv[2]);
  cluster.hidden = static_cast<std::size_t>(std::atoll(argv[3]));
  cluster.messages_within = std::string(argv[11]) == "messages";
  CostModel& model = cluster.model;
  model.link = link_from_name("shm");
  model.link.crowded = false;
  model.per_node = cluster.per_host;
  model.nics_per_node = std::atoi(argv[5]);
  model.link.call_us = std::atof(argv[6]);
  model.link.wait_us = std::atof(argv[7]);
  model.link.gbps = std::atof(argv[8]);
  model.network.call_us = 0;
  model.network.wait_us = std::atof(argv[9]);
  model.network.gbps = std::atof(argv[10]);
  Replay replay(cluster, rank, world);
  double next = 1;  // second at which all ranks begin
  std::string list = argv[4];
  for (std::size_t begin = 0; begin < list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    const std::size_t rows = std::stoul(list.substr(begin, end - begin));
    begin = end + 1;
    for (const Op op : {Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce}) {
      sleep_us((next - MPI_Wtime()) * 1e6);
      if (op == Op::all_reduce_all_gather)
        replay.all_reduce_all_gather(rows);
      else
        replay.reduce_scatter_all_reduce(rows);
      const double took = (MPI_Wtime() - next) * 1e6;
      double slowest = 0;
      MPI_Reduce(&took, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
      if (rank == 0) print(cluster, op, rows, world, slowest);
      next += 1;
    }
  }
  MPI_Finalize();
  return 0;
}
