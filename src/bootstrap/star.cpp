#include "bootstrap/star.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>

#include <optional>

#include "bootstrap/socket.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

std::size_t index(int rank) {
  return static_cast<std::size_t>(rank);
}

/// Rank 0's side. All are listened to at once, so that one that is gone is found while others are late.
class Collection {
 public:
  Collection(const Star& star, int world, std::string_view step)
      : star_(star), step_(step), partial_(index(world)), parts_(index(world)) {}

  /// Everyone's parts, or why there are none.
  Message collect(std::string_view mine, Milliseconds timeout) {
    parts_[0] = mine;
    const Deadline deadline(timeout);
    for (;;) {
      std::vector<int> late;
      std::vector<pollfd> entries;
      for (int r = 1; r < world(); ++r) {
        if (parts_[index(r)]) continue;
        if (auto verdict = look_at(r)) return *verdict;
        if (parts_[index(r)]) continue;
        late.push_back(r);
        entries.push_back({star_.peers[index(r)].get(), POLLIN, 0});
      }
      if (late.empty()) break;
      if (deadline.passed())
        return Verdict{
            Verdict::Kind::timeout,
            fmt::format("rank 0 waited {} ms for {} while {}", timeout.count(), name_ranks(late), step_),
            late};
      poll(entries.data(), entries.size(), deadline.left_ms());
    }
    Everyone everyone;
    for (auto& part : parts_) everyone.parts.push_back(std::move(*part));
    return everyone;
  }

 private:
  [[nodiscard]] int world() const { return static_cast<int>(parts_.size()); }

  /// Takes what has come from that rank.
  std::optional<Verdict> look_at(int r) {
    const Received received = receive_part(star_.peers[index(r)], partial_[index(r)], max_message_bytes);
    if (received == Received::late) return std::nullopt;
    if (received == Received::closed)
      return Verdict{
          Verdict::Kind::gone,
          fmt::format("rank {} ended while rank 0 waited for it, {}; look at its output", r, step_),
          {r}};
    auto part = only<Part>(partial_[index(r)].bytes);
    if (!part)
      return Verdict{
          Verdict::Kind::system, fmt::format("rank {} sent a malformed message while {}", r, step_), {}};
    if (part->step != step_)
      return Verdict{Verdict::Kind::disagreement,
                     fmt::format("rank {} is {}, but rank 0 is {}; all ranks must set up in the same order",
                                 r, part->step, step_),
                     {}};
    parts_[index(r)] = std::move(part->mine);
    return std::nullopt;
  }

  const Star& star_;
  std::string_view step_;
  std::vector<PartialMessage> partial_;
  std::vector<std::optional<std::string>> parts_;
};

/// The ranks on whose connections poll() reports one of `events` right now. Rank 0 has a connection to each
/// rank, the others to rank 0 alone.
RankSet ranks_with(const Star& star, short events) {
  std::vector<pollfd> entries;
  for (const Fd& peer : star.peers) entries.push_back({peer.get(), events, 0});
  if (star.rank != 0) entries.push_back({star.root.get(), events, 0});
  if (poll(entries.data(), entries.size(), 0) <= 0) return 0;
  RankSet ranks = 0;
  for (std::size_t r = 0; r < entries.size(); ++r)
    if (entries[r].revents != 0) ranks |= just(static_cast<int>(r));
  return ranks;
}

/// The other ranks' side.
Message ask(const Star& star, std::string_view step, std::string_view mine, Milliseconds timeout) {
  const Deadline deadline(timeout + grace);
  // If rank 0 has ended, what it said before is still there to be read.
  (void)send_message(star.root, to_bytes(Part{std::string(step), std::string(mine)}), deadline);
  std::string bytes;
  switch (receive_message(star.root, bytes, deadline)) {
    case Received::closed:
      return Verdict{
          Verdict::Kind::gone,
          fmt::format("rank 0 closed its connection to rank {} while {}: it ended; look at its output",
                      star.rank, step),
          {0}};
    case Received::late:
      return Verdict{
          Verdict::Kind::timeout,
          fmt::format("rank {} waited {} ms for rank 0 while {}", star.rank, (timeout + grace).count(), step),
          {0}};
    case Received::message:
      break;
  }
  if (auto message = message_from(bytes)) return *message;
  return Verdict{Verdict::Kind::system, fmt::format("rank 0 sent a malformed answer while {}", step), {}};
}

}  // namespace

std::vector<std::string> exchange_over(const Star& star, int world, std::string_view step,
                                       std::string_view mine, Milliseconds timeout) {
  Message message;
  if (star.rank == 0) {
    message = Collection(star, world, step).collect(mine, timeout);
    tell(star.peers, message);
  } else {
    message = ask(star, step, mine, timeout);
  }
  if (const auto* verdict = std::get_if<Verdict>(&message)) raise(*verdict);
  auto* everyone = std::get_if<Everyone>(&message);
  if (everyone == nullptr || everyone->parts.size() != index(world))
    throw SystemError(fmt::format("rank 0 sent a malformed answer while {}", step));
  return std::move(everyone->parts);
}

RankSet gone(const Star& star) {
  return ranks_with(star, POLLRDHUP);
}

RankSet speaking(const Star& star) {
  return star.rank == 0 ? ranks_with(star, POLLIN) : 0;
}

void raise(const Verdict& verdict) {
  switch (verdict.kind) {
    case Verdict::Kind::timeout:
      throw Timeout(verdict.text, verdict.ranks);
    case Verdict::Kind::gone:
      throw PeerGone(verdict.text, verdict.ranks);
    case Verdict::Kind::disagreement:
      throw Disagreement(verdict.text);
    case Verdict::Kind::system:
      break;
  }
  throw SystemError(verdict.text);
}

void tell(const std::vector<Fd>& peers, const Message& message) {
  const std::string bytes = to_bytes(message);
  const Deadline deadline(grace);
  for (const Fd& peer : peers)
    if (peer.valid())
      (void)send_message(peer, bytes, deadline);  // one that is gone is found at the next step
}

std::string name_ranks(const std::vector<int>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

}  // namespace mixcomm
