// One rank of mixcomm on several hosts, started by mpirun for scripts/bench-hosts, in two ways:
//   bench_hosts_rank CONTROL   makes the calls that bench_hosts orders, over the MPI that started it
//   bench_hosts_rank links     measures the network between two hosts with messages as mixcomm sends them:
//                              prints {"latency_us": ..., "gbps": ...} once
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "hosts/patience.hpp"
#include "hosts/transport.hpp"
#include "measure/mpi/rank.hpp"
#include "mixcomm/mixcomm.hpp"

namespace mixcomm::tools::mpi {
namespace {

using Clock = std::chrono::steady_clock;

class Worker final : public Rank {
 public:
  Worker(const std::shared_ptr<std::byte>& memory, Bootstrap& bootstrap)
      : Rank(memory, bootstrap.rank(), bootstrap.world()),
        communicator_(bootstrap, {.tp = control().tp,
                                  .dp = control().dp,
                                  .timeout = Milliseconds(control().timeout_ms),
                                  .cpu = {.threads = 1}}) {}

 private:
  void run(Op op) override {
    const std::size_t hidden = control().order.hidden;
    const DType dtype = control().dtype;
    const auto rows = [&](int elements) { return static_cast<std::size_t>(elements) / hidden; };
    const bool gathers = shape_of(op).body == Body::gather;
    const bool sum_alone = op == Op::all_reduce;
    const ConstTensor one_in{in(), rows(own_), hidden, dtype};
    const ConstTensor all_in{in(), rows(all_), hidden, dtype};
    const Tensor one_out{out(), rows(own_), hidden, dtype};
    const Tensor all_out{out(), rows(all_), hidden, dtype};
    counts_of_rows_.clear();
    for (const int elements : counts_) counts_of_rows_.push_back(rows(elements));
    communicator_.run(op, gathers ? one_in : all_in, gathers && !sum_alone ? all_out : one_out,
                      counts_of_rows_);
  }

  Communicator communicator_;
  std::vector<std::size_t> counts_of_rows_;
};

/// Messages of `bytes` with the same member of the other host, `depth` of them under way in each direction.
double exchange_us(Transport& transport, int peer, int tag, std::size_t bytes, int messages, int depth) {
  std::vector<Letter> out;
  std::vector<Letter> in;
  for (int i = 0; i < depth; ++i) {
    out.emplace_back(bytes);
    in.emplace_back(bytes);
    in.back().receive(transport, peer, tag);
  }
  const auto begin = Clock::now();
  int sent = 0;
  int received = 0;
  const auto all_gone = [&] {
    return sent == messages && std::ranges::all_of(out, [](Letter& each) { return each.complete(); });
  };
  for (Pause pause; received < messages || !all_gone(); pause.once()) {
    for (; sent < messages; ++sent) {
      Letter& next = out[static_cast<std::size_t>(sent % depth)];
      if (!next.complete()) break;
      next.send(transport, peer, tag, bytes);
    }
    for (; received < messages; ++received) {
      Letter& next = in[static_cast<std::size_t>(received % depth)];
      if (!next.complete()) break;
      if (received + depth < messages) next.receive(transport, peer, tag);
    }
  }
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

/// One of two to and fro, half of it.
double latency_us(Transport& transport, int peer, int tag, bool begins) {
  Letter out(8);
  Letter in(8);
  std::vector<double> all;
  for (int i = 0; i < 400; ++i) {
    const auto begin = Clock::now();
    in.receive(transport, peer, tag);
    if (begins) out.send(transport, peer, tag, 8);
    for (Pause pause; !in.complete();) pause.once();
    if (!begins) out.send(transport, peer, tag, 8);
    for (Pause pause; !out.complete();) pause.once();
    all.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count() / 2);
  }
  std::ranges::sort(all);
  return all[all.size() / 2];
}

int measure_links(Bootstrap& bootstrap) {
  if (bootstrap.transport() == nullptr || bootstrap.hosts().count() != 2)
    throw Unsupported("links are measured between two hosts");
  Transport& transport = *bootstrap.transport();
  const int half = bootstrap.world() / 2;
  const int peer = (bootstrap.rank() + half) % bootstrap.world();
  const int tag = transport.new_tag();
  const bool first = bootstrap.rank() % half == 0;
  double latency = 0;
  if (first) latency = latency_us(transport, peer, tag, bootstrap.rank() == 0);
  (void)bootstrap.exchange("latency is measured", "");
  constexpr std::size_t bytes = std::size_t{256} << 10U;
  constexpr int messages = 64;
  std::vector<double> took;
  for (int round = 0; round < 9; ++round) {
    (void)bootstrap.exchange("a round begins", "");
    took.push_back(exchange_us(transport, peer, tag, bytes, messages, 2));
  }
  std::ranges::sort(took);
  const double gbps = static_cast<double>(bytes) * messages * half / took[took.size() / 2] / 1000;
  (void)bootstrap.exchange("bandwidth is measured", "");
  if (bootstrap.rank() == 0) {
    fmt::print("{{\"latency_us\": {:.2f}, \"gbps\": {:.4f}}}\n", latency, gbps);
    std::fflush(stdout);
  }
  return 0;
}

int run_worker(const std::string& what) {
  constexpr Milliseconds timeout(20'000);
  if (what != "links")
    return serve_control(what.c_str(), [&](const auto& memory) {
      const auto bootstrap = bootstrap_mpi(timeout);
      Worker(memory, *bootstrap).serve();
    });
  try {
    return measure_links(*bootstrap_mpi(timeout));
  } catch (const std::exception& error) {
    report_failure({}, error.what());
    return 2;
  }
}

}  // namespace
}  // namespace mixcomm::tools::mpi

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "this is started by scripts/bench-hosts\n");
    return 2;
  }
  const int code = mixcomm::tools::mpi::run_worker(argv[1]);
  if (code != 0) _exit(code);  // MPI's own end would wait for the others
  return code;
}
