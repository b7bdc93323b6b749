// Where the ranks of a job meet, and who may come there.
#pragma once

#include <string>

#include "bootstrap/socket.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm {

/// With a secret: TCP, host:port, where ranks prove that they know it. Without one, and where the host is
/// 127.0.0.1 but there is no such network: a Unix socket of this host, at which the system tells who is of
/// the same user; nothing can be reached from other hosts, or by other users.
class MeetingPlace {
 public:
  /// Throws InvalidArgument where ranks without a secret would have to meet on another host.
  explicit MeetingPlace(const LaunchInfo& info);

  /// Whether that descriptor is open and listens there: of whatever address, for TCP.
  [[nodiscard]] bool is_listener(int fd) const;
  /// Throws SystemError, also where somebody else listens.
  [[nodiscard]] Fd listen() const;
  /// A connection to whoever listens there, or an invalid Fd when the deadline has passed.
  [[nodiscard]] Fd connect(const Deadline& deadline) const;
  /// As errors name it.
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  std::string host_;
  int port_;
  std::string unix_name_;  ///< "" for TCP
  std::string name_;
};

/// Whether the other end of a connection may be listened to at all: it is TCP, or a Unix socket of this
/// user's.
[[nodiscard]] bool may_speak(const Fd& connection);

}  // namespace mixcomm
