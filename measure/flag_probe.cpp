#include "measure/flag_probe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "futex.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int batches = 10;  ///< the quickest one counts: others were interrupted
constexpr std::uint64_t per_batch = 20;

}  // namespace

std::string_view name(Distance distance) {
  return distance == Distance::near ? "near" : distance == Distance::far ? "far" : "mixed";
}

Distance distance_of(double before_ns, double after_ns) {
  if (before_ns < far_flag_ns && after_ns < far_flag_ns) return Distance::near;
  return before_ns >= far_flag_ns && after_ns >= far_flag_ns ? Distance::far : Distance::mixed;
}

FlagProbe::FlagProbe(Bootstrap& bootstrap, Milliseconds timeout, bool apart)
    : rank_(bootstrap.rank()),
      apart_(apart && bootstrap.world() > 1),
      timeout_(timeout),
      memory_(bootstrap.share_memory(sizeof(Shared))),
      shared_(reinterpret_cast<Shared*>(memory_.get())) {}

double FlagProbe::measure() {
  if (!apart_) return 0;
  ++times_;
  if (rank_ == 0) {
    play_ping();
    shared_->measured.store(times_);
    futex_wake_all(shared_->measured);
  } else if (rank_ == 1) {
    play_pong();
  }
  const auto deadline = Clock::now() + timeout_;
  for (std::uint32_t seen = 0; (seen = shared_->measured.load()) != times_;) {
    if (Clock::now() > deadline)
      throw Timeout(
          fmt::format("rank {} waited {} ms for ranks 0 and 1, which measure how far apart they are", rank_,
                      timeout_.count()),
          {0, 1});
    futex_wait(shared_->measured, seen, std::chrono::milliseconds(50));
  }
  return static_cast<double>(shared_->picoseconds.load()) / 1000;
}

void FlagProbe::wait_for(const std::atomic<std::uint64_t>& flag, std::uint64_t value) const {
  for (Clock::time_point start{};;) {
    for (int i = 0; i < 100'000; ++i)
      if (flag.load(std::memory_order_acquire) >= value) return;
    if (start == Clock::time_point{}) start = Clock::now();
    if (Clock::now() - start > timeout_)
      throw Timeout(fmt::format("rank {} waited {} ms for rank {}, to measure how far apart they are", rank_,
                                timeout_.count(), 1 - rank_),
                    {1 - rank_});
  }
}

void FlagProbe::play_ping() {
  double best = std::numeric_limits<double>::infinity();
  for (int batch = 0; batch < batches; ++batch) {
    const auto begin = Clock::now();
    for (std::uint64_t i = 0; i < per_batch; ++i) {
      shared_->ping.value.store(++played_, std::memory_order_release);
      wait_for(shared_->pong.value, played_);
    }
    const std::chrono::duration<double, std::nano> spent = Clock::now() - begin;
    best = std::min(best, spent.count() / (2 * per_batch));
  }
  shared_->picoseconds.store(static_cast<std::uint64_t>(best * 1000));
}

void FlagProbe::play_pong() {
  for (std::uint64_t i = 0; i < batches * per_batch; ++i) {
    wait_for(shared_->ping.value, ++played_);
    shared_->pong.value.store(played_, std::memory_order_release);
  }
}

}  // namespace mixcomm::tools
