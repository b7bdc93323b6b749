// Sockets with deadlines: framed messages over TCP.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "bootstrap/deadline.hpp"
#include "mixcomm/fd.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm {

/// Throws SystemError: `what`, and what errno says.
[[noreturn]] void throw_system(const std::string& what);

/// Waits until `fd` is ready for those poll() events; false when the deadline has passed.
[[nodiscard]] bool wait_for(int fd, short events, const Deadline& deadline);

/// No message of the rendezvous is longer.
inline constexpr std::size_t max_message_bytes = std::size_t{1} << 20;

/// Where somebody may listen.
struct Endpoint {
  sockaddr_storage address{};
  socklen_t size = 0;
};
/// A Unix socket's, of a name in the abstract namespace: it is gone with the socket.
[[nodiscard]] Endpoint abstract_endpoint(const std::string& name);

/// Whether 127.0.0.1 can be reached: containers and sandboxes may have no network at all, not even that.
[[nodiscard]] bool has_ipv4_loopback();

/// Whether all of the host's addresses are loopback ones: whether they can be reached or not, that is this
/// host. Throws SystemError for one that has no address.
[[nodiscard]] bool is_loopback(const std::string& host);

/// Whether the host is this one: one of its addresses is. Throws SystemError for one that has no address.
[[nodiscard]] bool is_this_host(const std::string& host);

/// Listens on host:port (0: any free port). Throws SystemError that says so if the port is in use.
[[nodiscard]] Fd listen_on(const std::string& host, int port);
[[nodiscard]] int port_of(const Fd& listener);
/// Whether `fd` is a TCP socket that listens on that port.
[[nodiscard]] bool listens_on(int fd, int port);

/// The next connection, or an invalid Fd when the deadline has passed.
[[nodiscard]] Fd accept_by(const Fd& listener, const Deadline& deadline);

/// Connects to whichever answers first: one that swallows packets must not use up the time of the others. An
/// invalid Fd when all have refused, or the deadline has passed. Throws SystemError where no socket may be
/// made.
[[nodiscard]] Fd connect_to_first(std::span<const Endpoint> endpoints, const Deadline& deadline);

/// Connects to one of the host's addresses, trying again (1 s each) until the deadline while nobody listens;
/// an invalid Fd when it has passed. Throws SystemError for a host that has no address.
[[nodiscard]] Fd connect_by(const std::string& host, int port, const Deadline& deadline);

enum class Received { message, closed, late };

/// What one rank may put into an exchange: the answer holds everyone's.
inline constexpr std::size_t max_exchange_bytes = max_message_bytes / (std::size_t{2} * max_ranks);
/// Throws InvalidArgument for a longer one.
void check_exchange(std::string_view step, std::string_view mine);

/// False if the peer is gone or the deadline has passed.
[[nodiscard]] bool send_message(const Fd& socket, std::string_view message, const Deadline& deadline);

/// One message of at most `most` bytes; a longer one, or a broken one, counts as a closed connection.
[[nodiscard]] Received receive_message(const Fd& socket, std::string& message, const Deadline& deadline,
                                       std::size_t most = max_message_bytes);

/// A message that comes in parts: its length (4 bytes), then its bytes.
struct PartialMessage {
  std::array<unsigned char, 4> length{};
  std::size_t received = 0;  ///< bytes of both
  std::string bytes;
};
/// Takes what has come, without waiting; `late` until the message is whole. Otherwise as receive_message().
[[nodiscard]] Received receive_part(const Fd& socket, PartialMessage& partial, std::size_t most);

/// `bytes` random bytes in hexadecimal.
[[nodiscard]] std::string random_hex(std::size_t bytes);

}  // namespace mixcomm
