// A port for the ranks of one test.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "bootstrap/socket.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::test {

/// A port of 127.0.0.1 at which ranks of this test can meet, and which nobody else gets while this lives: not
/// for TCP, and not as a part of a Unix socket's name, since other tests find a number in this same way. It
/// is bound, which SO_REUSEADDR allows a second time, but nobody listens, so that whoever connects is
/// refused.
class HeldPort {
 public:
  HeldPort() {
    const int on = 1;
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!socket_.valid() || setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(socket_.get(), reinterpret_cast<const sockaddr*>(&any), sizeof(any)) != 0)
      throw SystemError("cannot hold a port of 127.0.0.1");
    number_ = port_of(socket_);
  }
  [[nodiscard]] int number() const { return number_; }

 private:
  Fd socket_{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  int number_ = 0;
};

}  // namespace mixcomm::test
