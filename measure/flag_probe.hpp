// How far apart two processors are at this moment.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "mixcomm/bootstrap.hpp"

namespace mixcomm::tools {

/// A host may move virtual processors between ones that share a cache and ones that do not, within seconds,
/// and everything that ranks exchange then takes several times as long. So what is measured is tagged, and
/// compared only with what has the same tag. `mixed`: it changed in between.
enum class Distance : std::uint8_t { near, far, mixed };
[[nodiscard]] std::string_view name(Distance distance);

/// Flags cross between processors that share a cache in 20 to 60 ns, and between others in more than 100.
inline constexpr double far_flag_ns = 80;

[[nodiscard]] Distance distance_of(double before_ns, double after_ns);

/// Ranks 0 and 1 play ping-pong, the others sleep.
class FlagProbe {
 public:
  /// Collective. `apart`: ranks 0 and 1 have a processor each.
  FlagProbe(Bootstrap& bootstrap, Milliseconds timeout, bool apart);

  /// The time that a flag takes from one of them to the other, in nanoseconds, on every rank; 0 where they
  /// are not apart. Collective. Throws Timeout.
  [[nodiscard]] double measure();

 private:
  struct alignas(128) Line {
    std::atomic<std::uint64_t> value;
  };
  struct Shared {
    Line ping;
    Line pong;
    alignas(128) std::atomic<std::uint32_t> measured;
    std::atomic<std::uint64_t> picoseconds;
  };
  void wait_for(const std::atomic<std::uint64_t>& flag, std::uint64_t value) const;
  void play_ping();
  void play_pong();

  int rank_;
  bool apart_;
  Milliseconds timeout_;
  std::shared_ptr<std::byte> memory_;
  Shared* shared_;
  std::uint32_t times_ = 0;
  std::uint64_t played_ = 0;
};

}  // namespace mixcomm::tools
