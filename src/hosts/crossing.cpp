#include "hosts/crossing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "bootstrap/message.hpp"
#include "failure_text.hpp"
#include "hosts/patience.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

using Clock = std::chrono::steady_clock;

/// Letters of a lane that may be under way at once.
constexpr std::size_t depth = 2;
/// A notice, which is one of the messages of set-up.
constexpr std::size_t notice_bytes = 4096;
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

/// Whether two ranks are in the same call. How a host carries out its part is its own affair.
bool same_call(const CallRecord& a, const CallRecord& b) {
  return a.number == b.number && a.op == b.op && a.dtype == b.dtype && a.hidden == b.hidden &&
         a.row_blocks == b.row_blocks && a.rows_hash == b.rows_hash && a.epilogue == b.epilogue;
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
struct Crossing::Lane {
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

std::vector<Letter>& Crossing::letters(int peer, bool outgoing) {
  std::vector<Letter>& found = letters_[{peer, outgoing}];
  while (found.size() < depth) found.emplace_back(sizeof(Header) + setup_.chunk_bytes);
  return found;
}

bool Crossing::send_some(Lane& lane, const CallRecord& call) {
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

bool Crossing::receive_some(Lane& lane, const CallRecord& call, Finding& finding) {
  bool moved = false;
  while (lane.open < depth && lane.begun < lane.stream.bytes) {
    lane.letter(lane.open).receive(*setup_.transport, lane.stream.peer, setup_.data_tag);
    lane.begun += std::min(setup_.chunk_bytes, lane.stream.bytes - lane.begun);
    ++lane.open;
  }
  while (lane.open > 0 && lane.letter(0).complete()) {
    const Letter& letter = lane.letter(0);
    Header header;
    if (letter.bytes() >= sizeof(header))
      std::memcpy(static_cast<void*>(&header), letter.data(), sizeof(header));
    setup_.state->heard_ms[static_cast<std::size_t>(lane.stream.peer)].store(now_ms());
    const std::size_t expected = std::min(setup_.chunk_bytes, lane.stream.bytes - lane.done);
    if (letter.bytes() != sizeof(header) + header.bytes || !same_call(header.call, call) ||
        header.begin != lane.done || header.bytes != expected) {
      finding = {cpu::Failure::Kind::disagreement,
                 disagreement_text(lane.stream.peer, header.call.describe(), rank(), call.describe()), 0};
      return true;
    }
    std::memcpy(lane.stream.data + lane.done, letter.data() + sizeof(header), header.bytes);
    lane.finish_oldest(header.bytes);
    moved = true;
  }
  return moved;
}

Finding Crossing::run(const CallRecord& call, std::vector<Stream> out, std::vector<Stream> in) {
  std::vector<Lane> lanes;
  for (const Stream& each : in)
    lanes.push_back({.outgoing = false, .stream = each, .letters = &letters(each.peer, false)});
  for (const Stream& each : out)
    lanes.push_back({.outgoing = true, .stream = each, .letters = &letters(each.peer, true)});
  const Waiting waiting(setup_.state->waits_for_hosts[static_cast<std::size_t>(rank())]);
  Finding finding;
  Pause pause(setup_.spins);
  for (std::uint32_t looks = 1;; ++looks) {
    bool moved = false;
    bool complete = true;
    for (Lane& lane : lanes) {
      if (lane.complete()) continue;
      moved = (lane.outgoing ? send_some(lane, call) : receive_some(lane, call, finding)) || moved;
      if (!finding.text.empty()) return finding;
      complete = complete && lane.complete();
    }
    if (complete) return {};
    if (moved) pause = Pause(setup_.spins);
    if (looks % 64 == 0) {
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

Finding Crossing::notice() {
  const std::optional<int> from = setup_.transport->probe(setup_.notice_tag);
  if (!from) return {};
  Letter letter(notice_bytes);
  letter.receive(*setup_.transport, *from, setup_.notice_tag);
  const Deadline deadline(std::chrono::seconds(1));
  for (Pause pause; !letter.complete(); pause.once())
    if (deadline.passed())
      return {cpu::Failure::Kind::timeout, fmt::format("rank {} has failed, and did not say why", *from), 0};
  const auto verdict = only<Verdict>({reinterpret_cast<const char*>(letter.data()), letter.bytes()});
  if (!verdict)
    return {cpu::Failure::Kind::timeout,
            fmt::format("rank {} has failed, and sent a malformed notice", *from), 0};
  return {failure_kind(verdict->kind), verdict->text, set_of(verdict->ranks)};
}

Finding Crossing::late(const std::vector<Lane>& lanes, const CallRecord& call) const {
  const auto now = Clock::now();
  RankSet peers = 0;
  for (const Lane& lane : lanes)
    if (!lane.complete() && now - lane.since >= setup_.timeout) peers |= just(lane.stream.peer);
  if (peers == 0) return {};
  // Ranks of a host whose own peers are late say so before this deadline. If nobody there has said anything
  // to anybody here for half of it, the host is not to be reached.
  const std::int64_t alive_since = now_ms() - setup_.timeout.count() / 2;
  RankSet missing = 0;
  std::string silent;
  for (const RankSet host : setup_.hosts) {
    if ((host & peers) == 0) continue;
    bool heard = false;
    for (const int rank : ranks_in(host))
      heard = heard || setup_.state->heard_ms[static_cast<std::size_t>(rank)].load() > alive_since;
    missing |= heard ? host & peers : host;
    if (!heard) silent += silent.empty() ? ", from whose host nothing came" : "";
  }
  return {cpu::Failure::Kind::timeout,
          timeout_text(rank(), setup_.timeout, ranks_in(missing), call.describe() + silent), missing};
}

void Crossing::tell(const Finding& finding) {
  setup_.transport->abandon();
  const std::string bytes = to_bytes(
      Verdict{verdict_kind(finding.kind), finding.text.substr(0, most_text), ranks_in(finding.missing)});
  try {
    for (std::size_t h = 0; h < setup_.hosts.size(); ++h) {
      if (static_cast<int>(h) == setup_.host) continue;
      for (const int peer : ranks_in(setup_.hosts[h])) {
        Letter letter(bytes.size());
        std::memcpy(letter.data(), bytes.data(), bytes.size());
        letter.send(*setup_.transport, peer, setup_.notice_tag, bytes.size());
        told_.push_back(std::move(letter));
      }
    }
    drive(told_);
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch): who is not told finds out by the deadline
  }
}

}  // namespace mixcomm
