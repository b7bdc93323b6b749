// File descriptors over Unix sockets.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bootstrap/deadline.hpp"
#include "mixcomm/fd.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm {

/// A datagram socket of an unguessable name in the abstract namespace, for descriptors of processes of this
/// user.
struct Mailbox {
  Fd socket;
  std::string name;
};
/// Throws SystemError.
[[nodiscard]] Mailbox open_mailbox();

/// Descriptors, and a few bytes that say which.
struct Parcel {
  std::string note;
  std::vector<Fd> descriptors;
};

/// A parcel holds at most this many descriptors, and as many bytes.
inline constexpr std::size_t max_parcel = max_ranks;

/// From one mailbox to another: it takes no descriptor more. Throws SystemError, also when that one is still
/// full at the deadline.
void send_parcel(const Mailbox& from, const std::string& mailbox_name, std::string_view note,
                 std::span<const int> descriptors, const Deadline& deadline);
/// The next parcel that a process of this user sends, or nothing when the deadline has passed. Throws
/// SystemError, also if descriptors of it were lost because this process has too many open.
[[nodiscard]] std::optional<Parcel> receive_parcel(const Mailbox& mailbox, const Deadline& deadline);

/// A copy of `fd`, closed on exec; an invalid one of a negative `fd`. Throws SystemError.
[[nodiscard]] Fd duplicate(int fd);

}  // namespace mixcomm
