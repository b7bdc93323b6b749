#include "bootstrap/meeting_place.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "bootstrap/system_call.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {

MeetingPlace::MeetingPlace(const LaunchInfo& info)
    : host_(info.host), port_(info.port), name_(fmt::format("{}:{}", info.host, info.port)) {
  const bool loopback = is_loopback(info.host);
  const bool no_network = loopback && !has_ipv4_loopback();
  if (!info.secret.empty() && !no_network) return;
  if (!loopback && !is_this_host(info.host))
    throw InvalidArgument(fmt::format(
        "rank {} is to meet the others at {}, which is another host, or the address of a service or a proxy, "
        "and "
        "knows no secret by which ranks could tell each other from strangers: set MIXCOMM_SECRET to the same "
        "random "
        "text on every rank (openssl rand -hex 16); or, where all ranks run on this host, MIXCOMM_HOST to "
        "127.0.0.1",
        info.rank, name_));
  unix_name_ = fmt::format("mixcomm-rendezvous-{}-{}", geteuid(), info.port);
  name_ = fmt::format("the Unix socket @{} of this host ({})", unix_name_,
                      no_network ? "127.0.0.1 cannot be reached" : "there is no MIXCOMM_SECRET");
}

bool MeetingPlace::is_listener(int fd) const {
  if (unix_name_.empty()) return listens_on(fd, port_);
  int listening = 0;
  socklen_t size = sizeof(listening);
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || listening == 0) return false;
  const Endpoint expected = abstract_endpoint(unix_name_);
  Endpoint here;
  here.size = sizeof(here.address);
  return getsockname(fd, reinterpret_cast<sockaddr*>(&here.address), &here.size) == 0 &&
         here.size == expected.size && std::memcmp(&here.address, &expected.address, here.size) == 0;
}

Fd MeetingPlace::listen() const {
  if (unix_name_.empty()) return listen_on(host_, port_);
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) throw_failed("cannot listen at " + name_, "socket");
  const Endpoint here = abstract_endpoint(unix_name_);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&here.address), here.size) != 0 ||
      ::listen(fd.get(), 128) != 0)
    throw SystemError(fmt::format("cannot listen at {}: {}", name_,
                                  errno == EADDRINUSE ? "another program does; choose another port "
                                                        "(MIXCOMM_PORT, MASTER_PORT)"
                                                      : std::strerror(errno)));
  return fd;
}

Fd MeetingPlace::connect(const Deadline& deadline) const {
  if (unix_name_.empty()) return connect_by(host_, port_, deadline);
  const Endpoint there = abstract_endpoint(unix_name_);
  for (auto pause = std::chrono::milliseconds(2);;
       pause = std::min(pause * 2, std::chrono::milliseconds(50))) {
    Fd fd = connect_to_first({&there, 1}, deadline);
    if (fd.valid() && may_speak(fd)) return fd;
    if (deadline.passed()) return {};
    std::this_thread::sleep_for(std::min(pause, std::chrono::milliseconds(deadline.left_ms() + 1)));
  }
}

bool may_speak(const Fd& connection) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(connection.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return false;
  if (address.ss_family != AF_UNIX) return true;
  ucred other{};
  size = sizeof(other);
  return getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &other, &size) == 0 && other.uid == geteuid();
}

}  // namespace mixcomm
