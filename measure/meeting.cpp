#include "measure/meeting.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <thread>
#include <vector>

#include "measure/processors.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::tools {
std::size_t Meeting::bytes(int world, std::size_t capacity) {
  const auto ranks = static_cast<std::size_t>(world);
  return (ranks + 1) * sizeof(Line) + ranks * capacity * sizeof(float);
}

Meeting::Meeting(Bootstrap& bootstrap, std::size_t capacity, Milliseconds timeout)
    : Meeting(bootstrap.share_memory(bytes(bootstrap.world(), capacity)),
              Grid::of(bootstrap.world(), 1, bootstrap.rank()).world, capacity, timeout) {}

Meeting::Meeting(std::shared_ptr<std::byte> memory, const Team& world, std::size_t capacity,
                 Milliseconds timeout)
    : rank_(world.member),
      world_(world.size),
      capacity_(capacity),
      timeout_(timeout),
      crowded_(world.size > processors_at_start()),
      memory_(std::move(memory)),
      // Zeroed memory is what these begin with.
      arrivals_(reinterpret_cast<Line*>(memory_.get())),
      decision_(arrivals_ + world_) {}

int Meeting::first_missing(int from) const {
  for (int r = from; r < world_; ++r)
    if (arrivals_[r].value.load(std::memory_order_acquire) < passed_) return r;
  return world_;
}

void Meeting::barrier() {
  ++passed_;
  arrivals_[rank_].value.store(passed_, std::memory_order_release);
  using Clock = std::chrono::steady_clock;
  const int polls = crowded_ ? 20 : 20'000;
  Clock::time_point start{};
  for (int next = 0;;) {
    for (int i = 0; i < polls; ++i)
      if ((next = first_missing(next)) == world_) return;
    std::this_thread::yield();
    if (start == Clock::time_point{}) start = Clock::now();
    if (Clock::now() - start < timeout_) continue;
    std::vector<int> missing;
    for (int r = 0; r < world_; ++r)
      if (arrivals_[r].value.load() < passed_) missing.push_back(r);
    if (missing.empty()) return;
    throw Timeout(
        fmt::format("rank {} waited {} ms for rank{} {} between measurements; look at its output", rank_,
                    timeout_.count(), missing.size() == 1 ? "" : "s", fmt::join(missing, ", ")),
        missing);
  }
}

std::span<float> Meeting::latencies(int r) const {
  auto* first = reinterpret_cast<float*>(decision_ + 1);
  return {first + static_cast<std::size_t>(r) * capacity_, capacity_};
}

std::uint64_t Meeting::decided_by_rank_0(std::uint64_t value) {
  if (rank_ == 0) decision_->value.store(value, std::memory_order_relaxed);
  barrier();
  const std::uint64_t decided = decision_->value.load(std::memory_order_relaxed);
  barrier();  // before rank 0 decides again
  return decided;
}

}  // namespace mixcomm::tools
