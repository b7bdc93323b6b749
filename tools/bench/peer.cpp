// One rank of a job of a library that is none of MPI: what a Python process loads (tools/bench/peer.py),
// which hands in the calls of that library.
#include <fmt/format.h>

#include <vector>

#include "measure/mpi/rank.hpp"
#include "mixcomm/error.hpp"
#include "tools/bench/peer.hpp"

namespace mixcomm::tools::mpi {
namespace {

class Peer final : public Rank {
 public:
  Peer(const std::shared_ptr<std::byte>& memory, int rank, int world, PeerRun function)
      : Rank(memory, rank, world), run_(function) {}

 private:
  void run(Op op) override {
    const PeerCall call{static_cast<int>(op),
                        static_cast<int>(control().dtype),
                        grid().tp.size,
                        grid().dp.size,
                        grid().rank(),
                        in(),
                        out(),
                        counts_.data()};
    auto* result = static_cast<std::byte*>(run_(&call));
    if (result == nullptr) throw SystemError(fmt::format("{} failed", name(op)));
    result_is_at(result);
  }
  PeerRun run_;
};

}  // namespace
}  // namespace mixcomm::tools::mpi

extern "C" {
/// How the job is to be: what a rank reads before it begins.
struct PeerJob {
  int tp;
  int dp;
  int threads;
};
__attribute__((visibility("default"))) int mixcomm_peer_job(const char* path, PeerJob* job);
__attribute__((visibility("default"))) int mixcomm_peer_serve(const char* path, int rank, int world,
                                                              PeerRun run);
/// Tells the bench why this rank cannot take part.
__attribute__((visibility("default"))) void mixcomm_peer_fail(const char* path, const char* why);
}

using namespace mixcomm::tools::mpi;  // NOLINT(google-build-using-namespace)

int mixcomm_peer_job(const char* path, PeerJob* job) {
  try {
    const auto memory = map_control(path);
    const auto& control = *reinterpret_cast<const Control*>(memory.get());
    *job = {control.tp, control.dp, control.threads};
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
}

int mixcomm_peer_serve(const char* path, int rank, int world, PeerRun run) {
  return serve_control(path, [&](const auto& memory) { Peer(memory, rank, world, run).serve(); });
}

void mixcomm_peer_fail(const char* path, const char* why) {
  try {
    report_failure(map_control(path), why);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
  }
}
