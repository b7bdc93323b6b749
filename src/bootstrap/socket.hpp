// Sockets with deadlines: framed messages over TCP, and descriptors over Unix sockets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "bootstrap/deadline.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm {

/// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { reset(); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

/// No message of the rendezvous is longer.
inline constexpr std::size_t max_message_bytes = std::size_t{1} << 20;

/// Listens on host:port (0: any free port). Throws SystemError that says so if the port is in use.
[[nodiscard]] Fd listen_on(const std::string& host, int port);
[[nodiscard]] int port_of(const Fd& listener);

/// The next connection, or an invalid Fd when the deadline has passed.
[[nodiscard]] Fd accept_by(const Fd& listener, const Deadline& deadline);

/// Connects, trying again until the deadline while nobody listens; an invalid Fd when it has passed. Throws
/// SystemError for a host that has no address.
[[nodiscard]] Fd connect_by(const std::string& host, int port, const Deadline& deadline);

enum class Received { message, closed, late };

/// What one rank may put into an exchange: the answer holds everyone's.
inline constexpr std::size_t max_exchange_bytes = max_message_bytes / (2 * max_ranks);

/// False if the peer is gone or the deadline has passed.
[[nodiscard]] bool send_message(const Fd& socket, std::string_view message, const Deadline& deadline);

/// One message of at most `most` bytes; a longer one, or a broken one, counts as a closed connection.
[[nodiscard]] Received receive_message(const Fd& socket, std::string& message, const Deadline& deadline,
                                       std::size_t most = max_message_bytes);

/// A datagram socket of an unguessable name in the abstract namespace, for descriptors of processes of this
/// user.
struct Mailbox {
  Fd socket;
  std::string name;
};
[[nodiscard]] Mailbox open_mailbox();
/// Throws SystemError.
void send_descriptor(const std::string& mailbox_name, int fd);
/// The first descriptor that a process of this user sends, or an invalid Fd when the deadline has passed.
[[nodiscard]] Fd receive_descriptor(const Mailbox& mailbox, const Deadline& deadline);

/// `bytes` random bytes in hexadecimal.
[[nodiscard]] std::string random_hex(std::size_t bytes);

}  // namespace mixcomm
