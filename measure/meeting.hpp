// Ranks that measure together: a barrier of their own, and a place for each one's latencies.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "mixcomm/bootstrap.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm::tools {

/// Shared memory of the ranks of one host, apart from the library that is measured.
class Meeting {
 public:
  /// Collective. Each rank may note down `capacity` latencies at a time.
  Meeting(Bootstrap& bootstrap, std::size_t capacity, Milliseconds timeout);

  /// Over zeroed memory that the ranks of `world` share, of bytes(world.size, capacity).
  Meeting(std::shared_ptr<std::byte> memory, const Team& world, std::size_t capacity, Milliseconds timeout);
  [[nodiscard]] static std::size_t bytes(int world, std::size_t capacity);

  /// Returns when all ranks have come. Throws Timeout, naming those that have not.
  void barrier();

  /// Where rank `r` puts its latencies, in microseconds. Read another's between two barriers.
  [[nodiscard]] std::span<float> latencies(int r) const;

  /// What rank 0 says, on all ranks. Collective.
  [[nodiscard]] std::uint64_t decided_by_rank_0(std::uint64_t value);

 private:
  struct alignas(128) Line {
    std::atomic<std::uint64_t> value;
  };
  [[nodiscard]] int first_missing(int from) const;

  int rank_;
  int world_;
  std::size_t capacity_;
  Milliseconds timeout_;
  bool crowded_;  ///< more ranks than processors: do not keep one from running
  std::shared_ptr<std::byte> memory_;
  Line* arrivals_;  ///< how many barriers each rank has come to
  Line* decision_;
  std::uint64_t passed_ = 0;
};

}  // namespace mixcomm::tools
