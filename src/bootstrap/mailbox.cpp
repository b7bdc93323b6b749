#include "bootstrap/mailbox.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "bootstrap/socket.hpp"
#include "bootstrap/system_call.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

constexpr std::size_t most_descriptor_bytes = max_parcel * sizeof(int);

/// Takes over all descriptors that came with the message, and says whether a process of this user sent it.
bool open_parcel(msghdr& message, std::vector<Fd>& descriptors) {
  bool same_user = false;
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET) continue;
    if (h->cmsg_type == SCM_RIGHTS) {
      for (std::size_t at = 0; CMSG_LEN(at + sizeof(int)) <= h->cmsg_len; at += sizeof(int)) {
        int received = -1;
        std::memcpy(&received, CMSG_DATA(h) + at, sizeof(received));
        descriptors.emplace_back(received);
      }
    } else if (h->cmsg_type == SCM_CREDENTIALS) {
      ucred sender{};
      std::memcpy(&sender, CMSG_DATA(h), sizeof(sender));
      same_user = sender.uid == geteuid();
    }
  }
  return same_user;
}

}  // namespace

Mailbox open_mailbox() {
  Mailbox mailbox{Fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)),
                  "mixcomm-" + random_hex(16)};
  if (!mailbox.socket.valid()) throw_failed("cannot make a Unix socket", "socket");
  const int on = 1;
  const Endpoint here = abstract_endpoint(mailbox.name);
  if (setsockopt(mailbox.socket.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0 ||
      bind(mailbox.socket.get(), reinterpret_cast<const sockaddr*>(&here.address), here.size) != 0)
    throw_system("cannot bind a Unix socket");
  return mailbox;
}

void send_parcel(const Mailbox& from, const std::string& mailbox_name, std::string_view note,
                 std::span<const int> descriptors, const Deadline& deadline) {
  if (note.size() > max_parcel || descriptors.size() > max_parcel)
    throw InvalidArgument(fmt::format("a parcel of {} descriptors and {} bytes; it holds at most {} of each",
                                      descriptors.size(), note.size(), max_parcel));
  Endpoint there = abstract_endpoint(mailbox_name);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(most_descriptor_bytes)> control{};
  iovec data{const_cast<char*>(note.data()), note.size()};  // sendmsg() only reads
  msghdr message{};
  message.msg_name = &there.address;
  message.msg_namelen = there.size;
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  // Nothing tells that there is room in another socket's queue, or among this user's descriptors on their way
  // (ETOOMANYREFS), so look again now and then.
  while (sendmsg(from.socket.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    const bool full = errno == EAGAIN || errno == EINTR || errno == ETOOMANYREFS;
    if (!full || deadline.passed())
      throw_system(
          "cannot pass a descriptor to another rank (ranks of one host must share a network namespace)");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

std::optional<Parcel> receive_parcel(const Mailbox& mailbox, const Deadline& deadline) {
  for (;;) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(most_descriptor_bytes) + CMSG_SPACE(sizeof(ucred))>
        control{};
    std::array<char, max_parcel> note{};
    iovec data{note.data(), note.size()};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t size = recvmsg(mailbox.socket.get(), &message, MSG_CMSG_CLOEXEC);
    if (size < 0) {
      if (errno != EAGAIN && errno != EINTR) throw_system("cannot receive a descriptor");
      if (!wait_for(mailbox.socket.get(), POLLIN, deadline)) return std::nullopt;
      continue;
    }
    Parcel parcel{{note.data(), static_cast<std::size_t>(size)}, {}};
    if (open_parcel(message, parcel.descriptors)) {
      if ((static_cast<unsigned>(message.msg_flags) & MSG_CTRUNC) != 0)
        throw SystemError(
            "descriptors of another rank were lost on their way in: this process has too many open; raise "
            "the "
            "limit of open files (ulimit -n)");
      return parcel;
    }
    if (deadline.passed()) return std::nullopt;  // strangers' messages are no reason to go on
  }
}

Fd duplicate(int fd) {
  if (fd < 0) return {};
  Fd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) throw_failed(fmt::format("cannot duplicate descriptor {}", fd), "fcntl");
  return copy;
}

}  // namespace mixcomm
