// What a team's first member decides for all, without a wait of its own.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace mixcomm {

/// Ranks must run the same, and none can wait to be told. So the team's first member decides for later calls:
/// what it writes before it enters call n holds from call n + 1 on, and every member reads it there. It is
/// there by then, because call n has a meeting that the first member enters after it has written; and it is
/// not overwritten before all have read it, because that happens before call n + 2, for which the first
/// member must have met all in call n + 1. While nothing changes nothing is written, and the line stays in
/// everyone's cache.
class Announcements {
 public:
  /// Where the first member writes, by the parity of the call; in memory that all share, zeroed at first.
  struct Board {
    alignas(128) std::array<std::atomic<std::uint64_t>, 2> said{};
  };
  /// From which call on work number `work`, below 2^24, is done in way number `way`.
  struct Change {
    std::size_t work = 0;
    std::uint8_t way = 0;
  };

  explicit Announcements(Board& board) : board_(&board) {}

  /// The team's next call, which must have a meeting of all its members, begins. What holds from it on, if
  /// anything changes.
  [[nodiscard]] std::optional<Change> begin() {
    ++calls_;
    const std::uint64_t said = board_->said[1 - parity()].load(std::memory_order_acquire);
    if (said == 0 || static_cast<std::uint32_t>(said >> 32U) != calls_) return std::nullopt;
    return Change{said >> 8U & 0xFFFFFFU, static_cast<std::uint8_t>(said & 0xFFU)};
  }

  /// By the first member, before it meets the others in the call that began last; once at most. For the calls
  /// behind it.
  void announce(const Change& change) {
    const std::uint32_t from = calls_ + 1;
    board_->said[parity()].store(
        static_cast<std::uint64_t>(from) << 32U | static_cast<std::uint64_t>(change.work) << 8U | change.way,
        std::memory_order_release);
  }

  /// Of the call that began last.
  [[nodiscard]] std::size_t parity() const { return calls_ % 2; }

 private:
  Board* board_;
  std::uint32_t calls_ = 0;  ///< of the team, modulo 2^32
};

}  // namespace mixcomm
