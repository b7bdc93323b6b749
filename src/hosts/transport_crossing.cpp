#include "hosts/transport_crossing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "failure_text.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t depth = chunks_under_way;
/// A notice, which is one of the messages of set-up.
constexpr std::size_t notice_bytes = 4096;
/// What a rank that waits says, and how often it does before its deadline.
constexpr const char* waiting_text = "waiting";
constexpr int beats = 8;
/// Of a text in a notice: what HostState's failure holds of it.
constexpr std::size_t most_text = 1000;

/// What goes before the elements of each chunk. Ranks of one job run one kind of machine, as MPI_BYTE asks
/// for.
struct Header {
  CallRecord call;
  std::uint64_t begin = 0;  ///< byte of the stream
  std::uint64_t bytes = 0;
};

std::int64_t now_ms() {
  return std::chrono::duration_cast<Milliseconds>(Clock::now().time_since_epoch()).count();
}

Verdict::Kind verdict_kind(cpu::Failure::Kind kind) {
  switch (kind) {
    case cpu::Failure::Kind::disagreement:
      return Verdict::Kind::disagreement;
    case cpu::Failure::Kind::gone:
      return Verdict::Kind::gone;
    default:
      return Verdict::Kind::timeout;
  }
}

cpu::Failure::Kind failure_kind(Verdict::Kind kind) {
  switch (kind) {
    case Verdict::Kind::disagreement:
      return cpu::Failure::Kind::disagreement;
    case Verdict::Kind::gone:
      return cpu::Failure::Kind::gone;
    default:
      return cpu::Failure::Kind::timeout;
  }
}

/// While it lives, ranks of this host that wait for this one know that it waits for another host.
class Waiting {
 public:
  explicit Waiting(std::atomic<std::uint32_t>& flag) : flag_(flag) { flag_.store(1); }
  ~Waiting() { flag_.store(0); }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  std::atomic<std::uint32_t>& flag_;
};

}  // namespace

/// One direction between this rank and a peer, in one call.
struct TransportCrossing::Lane {
  bool outgoing = false;
  Stream stream;
  std::vector<Letter>* letters = nullptr;
  std::size_t begun = 0;                   ///< bytes that letters were taken for
  std::size_t done = 0;                    ///< bytes that have left, or come
  std::size_t oldest = 0;                  ///< of the letters under way
  std::size_t open = 0;                    ///< how many these are
  Clock::time_point since = Clock::now();  ///< when something moved last

  [[nodiscard]] bool complete() const { return done == stream.bytes; }
  [[nodiscard]] Letter& letter(std::size_t i) const { return (*letters)[(oldest + i) % depth]; }
  void finish_oldest(std::size_t bytes) {
    done += bytes;
    oldest = (oldest + 1) % depth;
    --open;
    since = Clock::now();
  }
};

std::vector<Letter>& TransportCrossing::letters(int peer, bool outgoing) {
  std::vector<Letter>& found = letters_[{peer, outgoing}];
  while (found.size() < depth) found.emplace_back(sizeof(Header) + setup_.chunk_bytes);
  return found;
}

bool TransportCrossing::send_some(Lane& lane, const CallRecord& call) {
  bool moved = false;
  while (lane.open > 0 && lane.letter(0).complete()) {
    lane.finish_oldest(std::min(setup_.chunk_bytes, lane.stream.bytes - lane.done));
    moved = true;
  }
  while (lane.open < depth && lane.begun < lane.stream.bytes) {
    Letter& letter = lane.letter(lane.open);
    const Header header{call, lane.begun, std::min(setup_.chunk_bytes, lane.stream.bytes - lane.begun)};
    std::memcpy(letter.data(), &header, sizeof(header));
    std::memcpy(letter.data() + sizeof(header), lane.stream.data + lane.begun, header.bytes);
    letter.send(*setup_.transport, lane.stream.peer, setup_.data_tag, sizeof(header) + header.bytes);
    lane.begun += header.bytes;
    ++lane.open;
    moved = true;
  }
  return moved;
}

bool TransportCrossing::receive_some(Lane& lane, const CallRecord& call, Finding& finding) {
  bool moved = false;
  while (lane.open > 0 && lane.letter(0).complete()) {
    const Letter& letter = lane.letter(0);
    Header header;
    if (letter.bytes() >= sizeof(header))
      std::memcpy(static_cast<void*>(&header), letter.data(), sizeof(header));
    setup_.state->heard_ms[static_cast<std::size_t>(lane.stream.peer)].store(now_ms());
    const std::size_t expected = std::min(setup_.chunk_bytes, lane.stream.bytes - lane.done);
    if (letter.bytes() != sizeof(header) + header.bytes ||
        hash_between_hosts(header.call) != hash_between_hosts(call) || header.begin != lane.done ||
        header.bytes != expected) {
      finding = {cpu::Failure::Kind::disagreement,
                 disagreement_text(lane.stream.peer, header.call.describe(), rank(), call.describe()), 0};
      return true;
    }
    std::memcpy(lane.stream.data + lane.done, letter.data() + sizeof(header), header.bytes);
    lane.finish_oldest(header.bytes);
    moved = true;
  }
  // Behind the look: at first nothing can have come, and looking would keep what is to be sent.
  while (lane.open < depth && lane.begun < lane.stream.bytes) {
    lane.letter(lane.open).receive(*setup_.transport, lane.stream.peer, setup_.data_tag);
    lane.begun += std::min(setup_.chunk_bytes, lane.stream.bytes - lane.begun);
    ++lane.open;
  }
  return moved;
}

Finding TransportCrossing::run(const CallRecord& call, std::vector<Stream> out, std::vector<Stream> in,
                               void* /*stream*/) {
  std::vector<Lane> lanes;
  lanes.reserve(in.size() + out.size());
  for (const Stream& each : in)
    lanes.push_back({.outgoing = false, .stream = each, .letters = &letters(each.peer, false)});
  for (const Stream& each : out)
    lanes.push_back({.outgoing = true, .stream = each, .letters = &letters(each.peer, true)});
  const Waiting waiting(setup_.state->waits_for_hosts[static_cast<std::size_t>(rank())]);
  const auto beat = setup_.timeout / beats;
  auto next_beat = Clock::now() + beat;
  Finding finding;
  Pause pause(setup_.spins);
  for (std::uint32_t looks = 1;; ++looks) {
    bool moved = false;
    bool complete = true;
    for (Lane& lane : lanes) {
      if (lane.complete()) continue;
      try {
        moved = (lane.outgoing ? send_some(lane, call) : receive_some(lane, call, finding)) || moved;
      } catch (const SystemError& error) {
        return refused(lane.stream.peer, error.what());
      }
      if (!finding.text.empty()) return finding;
      complete = complete && lane.complete();
    }
    if (complete) return {};
    if (moved) {
      pause = Pause(setup_.spins);
      next_beat = Clock::now() + beat;
    }
    if (looks % 64 == 0) {
      if (Clock::now() >= next_beat) {
        say_waiting();
        next_beat += beat;
      }
      if (setup_.state->failure.state.load(std::memory_order_relaxed) != 0)
        return {cpu::Failure::Kind::timeout, "another rank of this host has failed", 0};
      if (finding = notice(); !finding.text.empty()) return finding;
      if (finding = late(lanes, call); !finding.text.empty()) return finding;
      if (pause.interrupted())
        return {
            cpu::Failure::Kind::timeout,
            fmt::format("rank {} was interrupted by its user while it waited in {}", rank(), call.describe()),
            just(rank())};
    }
    pause.once();
  }
}

Finding TransportCrossing::refused(int peer, const std::string& why) {
  const Deadline deadline(setup_.timeout / beats);
  for (Pause pause; !deadline.passed(); pause.once())
    if (Finding said = notice(); !said.text.empty()) return said;
  return {cpu::Failure::Kind::gone, fmt::format("rank {} is not to be reached any more: {}", peer, why),
          just(peer)};
}

Finding TransportCrossing::notice() {
  while (const std::optional<int> from = setup_.transport->probe(setup_.notice_tag)) {
    Letter letter(notice_bytes);
    letter.receive(*setup_.transport, *from, setup_.notice_tag);
    const Deadline deadline(std::chrono::seconds(1));
    for (Pause pause; !letter.complete(); pause.once())
      if (deadline.passed())
        return {cpu::Failure::Kind::timeout, fmt::format("rank {} has failed, and did not say why", *from),
                0};
    setup_.state->heard_ms[static_cast<std::size_t>(*from)].store(now_ms());
    const auto message = message_from({reinterpret_cast<const char*>(letter.data()), letter.bytes()});
    if (message && std::holds_alternative<Part>(*message)) continue;
    if (!message || !std::holds_alternative<Verdict>(*message))
      return {cpu::Failure::Kind::timeout,
              fmt::format("rank {} has failed, and sent a malformed notice", *from), 0};
    const Verdict& verdict = std::get<Verdict>(*message);
    return {failure_kind(verdict.kind), verdict.text, set_of(verdict.ranks)};
  }
  return {};
}

void TransportCrossing::to_all_others(const Message& message) {
  const std::string bytes = to_bytes(message);
  for (std::size_t h = 0; h < setup_.hosts.size(); ++h) {
    if (static_cast<int>(h) == setup_.host) continue;
    for (const int peer : ranks_in(setup_.hosts[h])) try {
        Letter letter(bytes.size());
        std::memcpy(letter.data(), bytes.data(), bytes.size());
        letter.send(*setup_.transport, peer, setup_.notice_tag, bytes.size());
        told_.push_back(std::move(letter));
      } catch (const SystemError&) {  // NOLINT(bugprone-empty-catch): who is gone need not know
      }
  }
}

void TransportCrossing::say_waiting() {
  to_all_others(Part{waiting_text, ""});
}

Finding TransportCrossing::late(const std::vector<Lane>& lanes, const CallRecord& call) const {
  const auto now = Clock::now();
  RankSet peers = 0;
  for (const Lane& lane : lanes)
    if (!lane.complete() && now - lane.since >= setup_.timeout) peers |= just(lane.stream.peer);
  if (peers == 0) return {};
  // A rank that waits for others says so, several times before this deadline; one that waits within its host
  // is told of, with who is late there. A host of which nothing is heard is not to be reached, or its ranks
  // are all late.
  const std::int64_t alive_since = now_ms() - setup_.timeout.count() / 2;
  const auto heard = [&](int rank) {
    return setup_.state->heard_ms[static_cast<std::size_t>(rank)].load() > alive_since;
  };
  RankSet silent = 0;  // of whole hosts
  RankSet quiet = 0;   // late themselves, on hosts of which others are heard
  for (const RankSet host : setup_.hosts) {
    if ((host & peers) == 0) continue;
    if (std::ranges::none_of(ranks_in(host), heard)) silent |= host;
    for (const int rank : ranks_in(host & peers & ~silent))
      if (!heard(rank)) quiet |= just(rank);
  }
  const RankSet missing = silent != 0 ? silent : quiet != 0 ? quiet : peers;
  const std::string_view why = silent != 0 ? ", from whose host nothing came" : "";
  return {cpu::Failure::Kind::timeout,
          timeout_text(rank(), setup_.timeout, ranks_in(missing), fmt::format("{}{}", call.describe(), why)),
          missing};
}

void TransportCrossing::tell(const Finding& finding) {
  setup_.transport->abandon();
  to_all_others(
      Verdict{verdict_kind(finding.kind), finding.text.substr(0, most_text), ranks_in(finding.missing)});
  drive(told_);
}

}  // namespace mixcomm
