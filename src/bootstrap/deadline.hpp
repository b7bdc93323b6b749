// A point in time by which a set-up step must be done.
#pragma once

#include <algorithm>
#include <chrono>

namespace mixcomm {

class Deadline {
 public:
  explicit Deadline(std::chrono::milliseconds from_now) : end_(std::chrono::steady_clock::now() + from_now) {}

  [[nodiscard]] bool passed() const { return std::chrono::steady_clock::now() >= end_; }
  [[nodiscard]] std::chrono::steady_clock::time_point end() const { return end_; }
  /// At least 0, at most `most`, rounded up, as poll() takes it.
  [[nodiscard]] int left_ms(std::chrono::milliseconds most = std::chrono::hours(1)) const {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end_ - std::chrono::steady_clock::now());
    return static_cast<int>(std::clamp(left, std::chrono::milliseconds(0), most).count());
  }

 private:
  std::chrono::steady_clock::time_point end_;
};

}  // namespace mixcomm
