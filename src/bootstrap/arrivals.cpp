#include "bootstrap/arrivals.hpp"

#include <poll.h>

#include <cerrno>
#include <chrono>
#include <vector>

#include "bootstrap/meeting_place.hpp"
#include "bootstrap/message.hpp"
#include "bootstrap/system_call.hpp"

namespace mixcomm {
namespace {

constexpr std::chrono::milliseconds time_to_speak{2000};
constexpr std::size_t most_strangers = 64;
constexpr std::size_t longest_message = 1024;  // whoever sends it is not known yet

}  // namespace

std::optional<Arrival> Arrivals::next(const Deadline& deadline) {
  for (;;) {
    for (auto s = strangers_.begin(); s != strangers_.end();) {
      const Received received = receive_part(s->socket, s->partial, longest_message);
      if (received == Received::message) {
        Arrival arrival{std::move(s->socket), s->nonce, std::move(s->partial.bytes)};
        strangers_.erase(s);
        return arrival;
      }
      const bool gone = received == Received::closed || s->speak_by.passed();
      s = gone ? strangers_.erase(s) : s + 1;
    }
    if (deadline.passed()) return std::nullopt;

    std::vector<pollfd> entries{{listener_.get(), POLLIN, 0}};
    for (const Stranger& stranger : strangers_) entries.push_back({stranger.socket.get(), POLLIN, 0});
    // All have the same time, so the first to come is the first whose time is over.
    const Deadline wake_by = strangers_.empty() ? deadline : std::min(deadline, strangers_.front().speak_by);
    if (poll(entries.data(), entries.size(), wake_by.left_ms()) <= 0 || entries[0].revents == 0) continue;

    if (descriptors_left(1) == 0) {
      if (strangers_.empty()) need_descriptors(1, "taking in another rank");
      strangers_.pop_front();
      continue;
    }
    const Deadline at_once(std::chrono::milliseconds(0));
    Fd socket = accept_by(listener_, at_once);
    if (!socket.valid() || !may_speak(socket)) continue;  // it has gone again, or is another user's
    const Nonce nonce = make_nonce();
    if (!send_message(socket, to_bytes(Challenge{nonce}), at_once)) continue;
    if (strangers_.size() == most_strangers) strangers_.pop_front();
    strangers_.push_back({std::move(socket), nonce, Deadline(time_to_speak), {}});
  }
}

}  // namespace mixcomm
