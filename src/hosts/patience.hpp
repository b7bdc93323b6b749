// How a rank waits where nothing wakes it: it looks, again and again.
#pragma once

#include <chrono>
#include <thread>
#include <vector>

#include "bootstrap/deadline.hpp"
#include "hosts/transport.hpp"
#include "mixcomm/error.hpp"
#include "mixcomm/interrupt.hpp"

namespace mixcomm {

/// Between two looks: at first none, then the processor is given up, and where it takes long, for a while.
class Pause {
 public:
  explicit Pause(int spins = 0) : spins_(spins) {}

  void once() {
    ++looks_;
    if (looks_ <= spins_) return;
    if (looks_ <= spins_ + yields)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  /// Whether the user of this thread wants the wait to end. Short waits do not ask.
  [[nodiscard]] bool interrupted() const {
    return looks_ > spins_ + yields && looks_ % 256 == 0 && mixcomm::interrupted();
  }

 private:
  static constexpr int yields = 20'000;
  int spins_;
  int looks_ = 0;
};

/// Gives messages that are to be sent a chance to leave: a transport works while it is looked at. For 100 ms
/// at most.
inline void drive(std::vector<Letter>& letters) {
  const Deadline deadline(std::chrono::milliseconds(100));
  const auto gone = [](Letter& letter) {
    try {
      return letter.complete();
    } catch (const SystemError&) {
      return true;  // whoever is gone need not know
    }
  };
  for (Pause pause; !letters.empty() && !deadline.passed(); pause.once()) std::erase_if(letters, gone);
}

}  // namespace mixcomm
