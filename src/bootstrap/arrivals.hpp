// Who comes to rank 0's port, whoever it is.
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "bootstrap/secret.hpp"
#include "bootstrap/socket.hpp"

namespace mixcomm {

/// A connection, the nonce that it was challenged with, and the first message that came over it.
struct Arrival {
  Fd socket;
  Nonce nonce{};
  std::string message;
};

/// Takes in connections, and challenges them, until each has sent one message. They wait side by side, so
/// that one that stays silent, or sends a byte now and then, delays nobody. Each has 2 s; where 64 are
/// waiting, or no more files may be opened, the one that has waited longest makes room.
class Arrivals {
 public:
  explicit Arrivals(Fd listener) : listener_(std::move(listener)) {}

  /// The next message, or nothing when the deadline has passed. Throws SystemError.
  [[nodiscard]] std::optional<Arrival> next(const Deadline& deadline);

 private:
  struct Stranger {
    Fd socket;
    Nonce nonce;
    Deadline speak_by;
    PartialMessage partial;
  };

  Fd listener_;
  std::deque<Stranger> strangers_;  ///< in the order of their coming
};

}  // namespace mixcomm
