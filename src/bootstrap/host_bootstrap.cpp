#include "bootstrap/host_bootstrap.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>
#include <vector>

#include "all_or_none.hpp"
#include "bootstrap/meeting_place.hpp"
#include "bootstrap/socket.hpp"
#include "bootstrap/star_bootstrap.hpp"
#include "bootstrap/system_call.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

/// Where the first rank of a host listens.
struct Lobby {
  std::string name;  ///< unguessable
  Fd listener;

  static Lobby open() {
    Lobby lobby{"mixcomm-host-" + random_hex(16),
                Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0))};
    const Endpoint here = abstract_endpoint(lobby.name);
    if (!lobby.listener.valid() ||
        bind(lobby.listener.get(), reinterpret_cast<const sockaddr*>(&here.address), here.size) != 0 ||
        listen(lobby.listener.get(), max_ranks) != 0)
      throw_failed("cannot listen for the ranks of this host", "socket, bind or listen");
    return lobby;
  }
};

/// Which member of the host says so; -1 for anything else.
int member_in(const std::string& text, int members) {
  int member = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), member);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && member > 0 && member < members ? member : -1;
}

Star receive(const Lobby& lobby, int members, const Deadline& deadline) {
  Star star;
  star.peers.resize(static_cast<std::size_t>(members));
  for (int missing = members - 1; missing > 0;) {
    Fd peer = accept_by(lobby.listener, deadline);
    if (!peer.valid())
      throw SystemError(fmt::format("{} of the {} ranks of its host did not come", missing, members));
    std::string text;
    if (!may_speak(peer) || receive_message(peer, text, deadline, 16) != Received::message) continue;
    const int member = member_in(text, members);
    if (member < 0 || star.peers[static_cast<std::size_t>(member)].valid()) continue;
    star.peers[static_cast<std::size_t>(member)] = std::move(peer);
    --missing;
  }
  return star;
}

Star visit(const std::string& lobby, int member, const Deadline& deadline) {
  const Endpoint there = abstract_endpoint(lobby);
  Star star{member, {}, connect_to_first({&there, 1}, deadline)};
  if (!star.root.valid() || !may_speak(star.root) ||
      !send_message(star.root, std::to_string(member), deadline))
    throw SystemError(
        "the first rank of its host cannot be reached (ranks of one host must share a network namespace and "
        "be "
        "of one user)");
  return star;
}

Star star_of_host(Meeting& whole, const std::vector<int>& members, Milliseconds timeout) {
  const auto member = static_cast<int>(std::ranges::find(members, whole.rank()) - members.begin());
  const auto count = static_cast<int>(members.size());
  Lobby lobby;
  const auto names = all_or_none(whole, "opening a place for each host's ranks", [&] {
    if (member == 0) lobby = Lobby::open();
    return lobby.name;
  });
  Star star;
  all_or_none(whole, "meeting host by host", [&] {
    const Deadline deadline(timeout / 2);  // so that the others are told before they give up
    star = member == 0 ? receive(lobby, count, deadline)
                       : visit(names[static_cast<std::size_t>(members[0])], member, deadline);
    return std::string();
  });
  return star;
}

class HostBootstrap final : public StarBootstrap {
 public:
  HostBootstrap(Star star, std::vector<int> members, Milliseconds timeout)
      : StarBootstrap(std::move(star), members.size(), timeout), members_(std::move(members)) {}

  [[nodiscard]] int rank_in_whole(int rank) const override {
    return members_[static_cast<std::size_t>(rank)];
  }

 private:
  std::vector<int> members_;  ///< their numbers in the whole
};

}  // namespace

std::unique_ptr<Bootstrap> bootstrap_host(Meeting& whole, const Hosts& hosts, Milliseconds timeout) {
  std::vector<int> members = hosts.ranks_on(hosts.of[static_cast<std::size_t>(whole.rank())]);
  Star star = star_of_host(whole, members, timeout);
  return std::make_unique<HostBootstrap>(std::move(star), std::move(members), timeout);
}

}  // namespace mixcomm
