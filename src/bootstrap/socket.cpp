#include "bootstrap/socket.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "bootstrap/system_call.hpp"
#include "mixcomm/error.hpp"
#include "mixcomm/interrupt.hpp"

namespace mixcomm {
namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses resolve(const std::string& host, int port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error == EAI_SYSTEM && is_shortage(errno))
    throw_failed(fmt::format("cannot look up the host '{}'", host), "getaddrinfo");
  if (error != 0)
    throw SystemError(fmt::format("the host '{}' has no address: {}; check MASTER_ADDR or MIXCOMM_HOST", host,
                                  gai_strerror(error)));
  return {found, freeaddrinfo};
}

/// True once all of it has gone.
bool send_all(int fd, const char* data, std::size_t size, const Deadline& deadline) {
  while (size > 0) {
    const ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
    if (n > 0) {
      data += n;
      size -= static_cast<std::size_t>(n);
    } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      if (!wait_for(fd, POLLOUT, deadline)) return false;
    } else {
      return false;
    }
  }
  return true;
}

Received receive_all(int fd, char* data, std::size_t size, const Deadline& deadline) {
  while (size > 0) {
    const ssize_t n = recv(fd, data, size, 0);
    if (n > 0) {
      data += n;
      size -= static_cast<std::size_t>(n);
    } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
      if (!wait_for(fd, POLLIN, deadline)) return Received::late;
    } else {
      return Received::closed;
    }
  }
  return Received::message;
}

std::size_t length_in(const std::array<unsigned char, 4>& bytes) {
  std::size_t size = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) size |= static_cast<std::size_t>(bytes[i]) << (8 * i);
  return size;
}

void prepare(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/// TCP may connect a socket to itself, where the port is one that the system hands out and nobody listens
/// yet.
bool connected_to_itself(int fd) {
  sockaddr_storage mine{};
  sockaddr_storage theirs{};
  socklen_t mine_size = sizeof(mine);
  socklen_t theirs_size = sizeof(theirs);
  return getsockname(fd, reinterpret_cast<sockaddr*>(&mine), &mine_size) == 0 &&
         getpeername(fd, reinterpret_cast<sockaddr*>(&theirs), &theirs_size) == 0 &&
         mine_size == theirs_size && std::memcmp(&mine, &theirs, mine_size) == 0;
}

/// Invalid where the system has no such sockets (IPv6 may be off). Throws SystemError where it could not make
/// one now: that must not pass for nobody's being there.
Fd stream_socket(int family) {
  Fd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid() && is_shortage(errno)) throw_failed("cannot make a socket", "socket");
  return fd;
}

bool is_loopback(const sockaddr* address) {
  if (address->sa_family == AF_INET6) {
    const in6_addr& here = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    return std::memcmp(&here, &in6addr_loopback, sizeof(here)) == 0;
  }
  return address->sa_family == AF_INET &&
         ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr) >> 24U == IN_LOOPBACKNET;
}

int port_in(const sockaddr_storage& address) {
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void throw_system(const std::string& what) {
  throw SystemError(failure_of(what, errno));
}

bool wait_for(int fd, short events, const Deadline& deadline) {
  for (;;) {
    pollfd entry{fd, events, 0};
    const int ready = poll(&entry, 1, deadline.left_ms());
    if (ready > 0) return true;
    if (ready == 0 && deadline.passed()) return false;
    if (ready < 0 && (errno != EINTR || interrupted())) return false;
  }
}

Fd listen_on(const std::string& host, int port) {
  const Addresses addresses = resolve(host, port, AI_PASSIVE);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    Fd fd = stream_socket(a->ai_family);
    if (!fd.valid()) continue;
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd.get(), a->ai_addr, a->ai_addrlen) == 0 && listen(fd.get(), 128) == 0) return fd;
  }
  if (errno == EADDRINUSE)
    throw SystemError(fmt::format(
        "port {} on {} is in use by another program; choose another one (MIXCOMM_PORT, MASTER_PORT, "
        "or --port of 'mixcomm run')",
        port, host));
  if (errno == EADDRNOTAVAIL)
    throw SystemError(fmt::format(
        "cannot listen on {}:{}, which is no address of this host: another host's, or that of a service or a "
        "proxy. Rank 0 listens there: set MIXCOMM_HOST, on every rank, to an address of its host (127.0.0.1 "
        "where all run on one)",
        host, port));
  throw_system(fmt::format("cannot listen on {}:{}", host, port));
}

int port_of(const Fd& listener) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw_system("getsockname");
  return port_in(address);
}

bool listens_on(int fd, int port) {
  int listening = 0;
  socklen_t size = sizeof(listening);
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || listening == 0) return false;
  sockaddr_storage address{};
  size = sizeof(address);
  return getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
         (address.ss_family == AF_INET || address.ss_family == AF_INET6) && port_in(address) == port;
}

Fd accept_by(const Fd& listener, const Deadline& deadline) {
  for (;;) {
    Fd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.valid()) {
      prepare(fd.get());
      return fd;
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) throw_system("accept");
    if (!wait_for(listener.get(), POLLIN, deadline)) return {};
  }
}

Endpoint abstract_endpoint(const std::string& name) {
  Endpoint endpoint;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t n = std::min(name.size(), sizeof(address.sun_path) - 1);
  std::memcpy(address.sun_path + 1, name.data(), n);
  std::memcpy(&endpoint.address, &address, sizeof(address));
  endpoint.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + n);
  return endpoint;
}

bool has_ipv4_loopback() {
  const Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() && is_shortage(errno)) throw_failed("cannot make a socket", "socket");
  ifreq lo{};
  std::memcpy(lo.ifr_name, "lo", sizeof("lo"));
  if (!fd.valid() || ioctl(fd.get(), SIOCGIFFLAGS, &lo) != 0 ||
      (static_cast<unsigned>(lo.ifr_flags) & IFF_UP) == 0)
    return false;
  // Sends nothing. Where 127.0.0.1 is nobody's, the way there leads elsewhere, or nowhere.
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(1);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  return connect(fd.get(), any, size) == 0 && getsockname(fd.get(), any, &size) == 0 && is_loopback(any);
}

bool is_loopback(const std::string& host) {
  const Addresses addresses = resolve(host, 0, 0);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next)
    if (!is_loopback(a->ai_addr)) return false;
  return true;
}

bool is_this_host(const std::string& host) {
  const Addresses addresses = resolve(host, 0, 0);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    // One can only bind what is one's own. Port 0: any.
    const Fd fd = stream_socket(a->ai_family);
    if (fd.valid() && bind(fd.get(), a->ai_addr, a->ai_addrlen) == 0) return true;
  }
  return false;
}

Fd connect_to_first(std::span<const Endpoint> endpoints, const Deadline& deadline) {
  std::vector<Fd> trying;
  std::size_t forbidden = 0;
  const auto connected = [](Fd& fd) {
    prepare(fd.get());
    return std::move(fd);
  };
  for (const Endpoint& endpoint : endpoints) {
    Fd fd = stream_socket(endpoint.address.ss_family);
    if (!fd.valid() && is_forbidden(errno) && ++forbidden == endpoints.size())
      throw_failed("cannot make a socket", "socket");  // waiting would not help
    if (!fd.valid()) continue;
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&endpoint.address), endpoint.size) == 0) {
      if (!connected_to_itself(fd.get())) return connected(fd);
    } else if (errno == EINPROGRESS) {
      trying.push_back(std::move(fd));
    }
  }
  while (!trying.empty()) {
    std::vector<pollfd> entries;
    entries.reserve(trying.size());
    for (const Fd& fd : trying) entries.push_back({fd.get(), POLLOUT, 0});
    if (poll(entries.data(), entries.size(), deadline.left_ms()) <= 0 && deadline.passed()) break;
    for (std::size_t i = entries.size(); i-- > 0;) {
      if (entries[i].revents == 0) continue;
      int error = 0;
      socklen_t size = sizeof(error);
      getsockopt(trying[i].get(), SOL_SOCKET, SO_ERROR, &error, &size);
      if (error == 0 && !connected_to_itself(trying[i].get())) return connected(trying[i]);
      trying.erase(trying.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  return {};
}

Fd connect_by(const std::string& host, int port, const Deadline& deadline) {
  const Addresses addresses = resolve(host, port, 0);
  std::vector<Endpoint> endpoints;
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    endpoints.push_back({{}, a->ai_addrlen});
    std::memcpy(&endpoints.back().address, a->ai_addr, a->ai_addrlen);
  }
  for (auto pause = std::chrono::milliseconds(2);;
       pause = std::min(pause * 2, std::chrono::milliseconds(200))) {
    Fd fd = connect_to_first(endpoints, deadline.at_most(std::chrono::seconds(1)));
    if (fd.valid() || deadline.passed()) return fd;
    std::this_thread::sleep_for(std::min(pause, std::chrono::milliseconds(deadline.left_ms() + 1)));
  }
}

void check_exchange(std::string_view step, std::string_view mine) {
  if (mine.size() > max_exchange_bytes)
    throw InvalidArgument(
        fmt::format("{}: a message of {} bytes is longer than {}", step, mine.size(), max_exchange_bytes));
}

bool send_message(const Fd& socket, std::string_view message, const Deadline& deadline) {
  if (message.size() > max_message_bytes)
    throw InvalidArgument(
        fmt::format("a set-up message of {} bytes is longer than {}", message.size(), max_message_bytes));
  std::array<unsigned char, 4> length{};
  for (std::size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<unsigned char>(message.size() >> (8 * i));
  return send_all(socket.get(), reinterpret_cast<const char*>(length.data()), length.size(), deadline) &&
         send_all(socket.get(), message.data(), message.size(), deadline);
}

Received receive_message(const Fd& socket, std::string& message, const Deadline& deadline, std::size_t most) {
  std::array<unsigned char, 4> length{};
  if (const auto r =
          receive_all(socket.get(), reinterpret_cast<char*>(length.data()), length.size(), deadline);
      r != Received::message)
    return r;
  const std::size_t size = length_in(length);
  if (size > most) return Received::closed;
  message.resize(size);
  return receive_all(socket.get(), message.data(), size, deadline);
}

Received receive_part(const Fd& socket, PartialMessage& partial, std::size_t most) {
  const std::size_t head = partial.length.size();
  for (;;) {
    std::size_t size = 0;
    if (partial.received >= head) {
      size = length_in(partial.length);
      if (size > most) return Received::closed;
      partial.bytes.resize(size);
      if (partial.received == head + size) return Received::message;
    }
    const bool in_head = partial.received < head;
    void* to = in_head ? static_cast<void*>(partial.length.data() + partial.received)
                       : static_cast<void*>(partial.bytes.data() + (partial.received - head));
    const std::size_t left = (in_head ? head : head + size) - partial.received;
    const ssize_t n = recv(socket.get(), to, left, MSG_DONTWAIT);
    if (n > 0)
      partial.received += static_cast<std::size_t>(n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
      return Received::closed;
    else if (errno == EAGAIN)
      return Received::late;
  }
}

std::string random_hex(std::size_t bytes) {
  std::string random(bytes, '\0');
  if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(bytes)) throw_system("getrandom");
  std::string hex;
  for (const char c : random) hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return hex;
}

}  // namespace mixcomm
