// A point in time by which a set-up step must be done.
#pragma once

#include <algorithm>
#include <chrono>

namespace mixcomm {

/// Throws InvalidArgument unless 0 < timeout <= 1 year: no wait is unbounded, and the end of each can be
/// computed.
void check_timeout(std::chrono::milliseconds timeout);

class Deadline {
 public:
  explicit Deadline(std::chrono::milliseconds from_now) : end_(std::chrono::steady_clock::now() + from_now) {}

  [[nodiscard]] bool passed() const { return std::chrono::steady_clock::now() >= end_; }
  [[nodiscard]] std::chrono::steady_clock::time_point end() const { return end_; }
  friend bool operator<(const Deadline& a, const Deadline& b) { return a.end_ < b.end_; }
  /// This one, or `most` from now, whichever comes first.
  [[nodiscard]] Deadline at_most(std::chrono::milliseconds most) const {
    return std::min(*this, Deadline(most));
  }
  /// At least 0, at most `most`, rounded up, as poll() takes it.
  [[nodiscard]] int left_ms(std::chrono::milliseconds most = std::chrono::hours(1)) const {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end_ - std::chrono::steady_clock::now());
    return static_cast<int>(std::clamp(left, std::chrono::milliseconds(0), most).count());
  }

 private:
  std::chrono::steady_clock::time_point end_;
};

}  // namespace mixcomm
