#include "bootstrap/rendezvous.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include "bootstrap/arrivals.hpp"
#include "bootstrap/meeting_place.hpp"
#include "bootstrap/secret.hpp"
#include "bootstrap/system_call.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

/// How often to look whether a rank that is waited for has died.
constexpr Milliseconds slice{25};

std::size_t index(int rank) {
  return static_cast<std::size_t>(rank);
}

std::string_view view(const Nonce& nonce) {
  return {reinterpret_cast<const char*>(nonce.data()), nonce.size()};
}

/// What a rank and rank 0 prove to each other: both nonces are in it, so it is good for one connection.
std::string hello_statement(const Nonce& theirs, const Hello& hello) {
  return fmt::format("hello {}{}rank {} of {}", view(theirs), view(hello.nonce), hello.rank, hello.world);
}
std::string welcome_statement(const Nonce& theirs, const Hello& hello, const std::vector<int>& members) {
  return fmt::format("welcome {}{}rank {} of {} among {}", view(theirs), view(hello.nonce), hello.rank,
                     hello.world, fmt::join(members, ","));
}

/// 'mixcomm run' opens the port before it starts the ranks, so that nobody can take it in between.
/// Any other descriptor of that number is somebody else's, and stays as it is.
Fd inherited_listener(const LaunchInfo& info, const MeetingPlace& place) {
  const char* text = std::getenv("MIXCOMM_LISTENER");
  if (text == nullptr || info.secret.empty()) return {};
  int fd = -1;
  const char* end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, fd);
  const bool ours = error == std::errc() && rest == end && place.is_listener(fd);
  unsetenv("MIXCOMM_LISTENER");
  return ours && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0 ? Fd(fd) : Fd();
}

/// The ranks of a meeting, as far as one of them knows.
class Known {
 public:
  explicit Known(const Appointment& appointment) : appointment_(appointment), absent_(appointment.absent) {}

  /// Takes in who has died meanwhile.
  void look() {
    if (appointment_.watch != nullptr)
      absent_ |= appointment_.watch->dead(first_ranks(appointment_.info.world) & ~absent_);
  }
  [[nodiscard]] bool expected(int rank) const { return !holds(absent_, rank); }
  [[nodiscard]] RankSet all() const { return first_ranks(appointment_.info.world) & ~absent_; }
  [[nodiscard]] int first() const { return std::countr_zero(all()); }
  /// `deadline`, or the time to look again.
  [[nodiscard]] Deadline next_look(const Deadline& deadline) const {
    return appointment_.watch != nullptr ? deadline.at_most(slice) : deadline;
  }

 private:
  const Appointment& appointment_;
  RankSet absent_;
};

/// The part of the rank that listens.
class Host {
 public:
  Host(const Appointment& appointment, Known& known)
      : appointment_(appointment), known_(known), place_(appointment.info), secret_(appointment.info.secret) {
    guests_.resize(index(appointment.info.world));
  }

  Met receive_everyone() {
    const Deadline deadline(appointment_.timeout);
    Fd listener = inherited_listener(appointment_.info, place_);
    if (!listener.valid()) listener = place_.listen();
    find_out_about_descriptors();
    std::optional<Arrivals> arrivals(std::move(listener));
    for (std::vector<int> missing = who_is_missing(); !missing.empty(); missing = who_is_missing()) {
      if (std::optional<Arrival> arrival = arrivals->next(known_.next_look(deadline)))
        admit(std::move(*arrival));
      else if (deadline.passed())
        give_up(missing);
      known_.look();
    }
    if (!short_of_descriptors_.empty()) throw SystemError(short_of_descriptors_);
    // Closed before anybody goes on: a rank that is quick to begin another rendezvous must not end up in this
    // one's queue.
    arrivals.reset();
    return welcome(deadline);
  }

 private:
  struct Guest {
    Fd socket;
    Nonce nonce{};  ///< that it was challenged with
    Hello hello;
  };

  /// A rank that cannot hold a connection to each of the others tells them so, one by one.
  void find_out_about_descriptors() try {
    need_descriptors(static_cast<int>(who_is_missing().size()) + 1, "meeting the other ranks");
  } catch (const SystemError& error) {
    short_of_descriptors_ = fmt::format("rank {}: {}", appointment_.info.rank, error.what());
  }

  [[nodiscard]] std::vector<int> who_is_missing() const {
    std::vector<int> missing;
    for (const int r : ranks_in(known_.all()))
      if (r != appointment_.info.rank && !guests_[index(r)].socket.valid() && !holds(told_, r))
        missing.push_back(r);
    return missing;
  }

  /// A stranger (no hello) is dropped; a wrong secret, world or rank is told why.
  void admit(Arrival arrival) {
    const auto hello = only<Hello>(arrival.message);
    if (!hello) return;
    const std::string problem = problem_with(*hello, arrival.nonce);
    const Deadline at_once(Milliseconds(0));
    if (problem.empty() && !short_of_descriptors_.empty()) {
      told_ |= just(hello->rank);
      (void)send_message(arrival.socket, to_bytes(Verdict{Verdict::Kind::system, short_of_descriptors_, {}}),
                         at_once);
      return;
    }
    if (problem.empty()) {
      guests_[index(hello->rank)] = {std::move(arrival.socket), arrival.nonce, *hello};
      return;
    }
    (void)send_message(arrival.socket, to_bytes(Verdict{Verdict::Kind::disagreement, problem, {}}), at_once);
  }

  [[nodiscard]] std::string problem_with(const Hello& hello, const Nonce& nonce) const {
    const LaunchInfo& mine = appointment_.info;
    if (!secret_.check(hello_statement(nonce, hello), hello.proof))
      return fmt::format("rank {} has another MIXCOMM_SECRET than rank {}: it belongs to another job",
                         hello.rank, mine.rank);
    if (hello.world != mine.world)
      return fmt::format("rank {} was started for {} ranks, but rank {} for {}", hello.rank, hello.world,
                         mine.rank, mine.world);
    if (hello.rank >= mine.world)
      return fmt::format("rank {} is not from 1 to {}", hello.rank, mine.world - 1);
    if (hello.rank == mine.rank || guests_[index(hello.rank)].socket.valid())
      return fmt::format("two processes came as rank {}", hello.rank);
    if (!known_.expected(hello.rank))
      return fmt::format("rank {} counts as lost: the others go on without it", hello.rank);
    return "";
  }

  Met welcome(const Deadline& deadline) {
    Met met;
    for (int r = 0; r < appointment_.info.world; ++r)
      if (r == appointment_.info.rank || (guests_[index(r)].socket.valid() && known_.expected(r)))
        met.members.push_back(r);
    for (const int r : met.members) {
      Guest& guest = guests_[index(r)];
      if (guest.socket.valid()) {
        const Proof proof = secret_.prove(welcome_statement(guest.nonce, guest.hello, met.members));
        if (!send_message(guest.socket, to_bytes(Welcome{met.members, proof}), deadline)) went_away(r);
      }
      met.star.peers.push_back(std::move(guest.socket));
    }
    return met;
  }

  [[noreturn]] void give_up(const std::vector<int>& missing) {
    if (!short_of_descriptors_.empty()) throw SystemError(short_of_descriptors_);
    fail({Verdict::Kind::timeout,
          fmt::format("{} did not come to the rendezvous at {} within {} ms", name_ranks(missing),
                      place_.name(), appointment_.timeout.count()),
          missing});
  }
  [[noreturn]] void went_away(int rank) {
    fail({Verdict::Kind::gone, fmt::format("rank {} went away during the rendezvous", rank), {rank}});
  }
  [[noreturn]] void fail(const Verdict& verdict) {
    std::vector<Fd> sockets;
    for (Guest& guest : guests_) sockets.push_back(std::move(guest.socket));
    tell(sockets, verdict);
    raise(verdict);
  }

  const Appointment& appointment_;
  Known& known_;
  MeetingPlace place_;
  Secret secret_;
  std::vector<Guest> guests_;  ///< by rank
  std::string short_of_descriptors_;
  RankSet told_ = 0;  ///< who knows that
};

/// The part of a rank that connects.
class Visitor {
 public:
  Visitor(const Appointment& appointment, Known& known)
      : appointment_(appointment),
        known_(known),
        place_(appointment.info),
        secret_(appointment.info.secret) {}

  /// Nothing if all who might listen have died: then this rank is the first one that is left.
  std::optional<Met> join() {
    const Deadline come_by(appointment_.timeout);
    const Deadline deadline(appointment_.timeout + grace);
    for (;;) {
      known_.look();
      if (known_.first() == mine().rank) return std::nullopt;
      Fd root = place_.connect(known_.next_look(come_by));
      if (!root.valid()) {
        if (!come_by.passed()) continue;
        throw Timeout(fmt::format("rank {} found nobody at {} within {} ms: rank {} did not come, or listens "
                                  "elsewhere",
                                  mine().rank, place_.name(), appointment_.timeout.count(), known_.first()),
                      {known_.first()});
      }
      std::string bytes;
      const Received challenged = receive_message(root, bytes, deadline);
      if (challenged == Received::message) {
        const auto challenge = only<Challenge>(bytes);
        if (!challenge) wrong_host();
        Hello hello{.rank = mine().rank, .world = mine().world, .nonce = make_nonce(), .proof = {}};
        hello.proof = secret_.prove(hello_statement(challenge->nonce, hello));
        (void)send_message(root, to_bytes(hello), deadline);  // it may have said more before it ended
        const Received received = receive_message(root, bytes, deadline);
        if (received == Received::message) return read_welcome(bytes, *challenge, hello, std::move(root));
        if (received == Received::late) lost();
      }
      if (challenged == Received::late || come_by.passed()) lost();
      // Closed without a word: the end of an earlier rendezvous at this place, or this rank was slow to say
      // hello.
      std::this_thread::sleep_for(Milliseconds(5));
    }
  }

 private:
  [[nodiscard]] const LaunchInfo& mine() const { return appointment_.info; }

  Met read_welcome(const std::string& bytes, const Challenge& challenge, const Hello& hello, Fd root) const {
    const auto message = message_from(bytes);
    if (message && std::holds_alternative<Verdict>(*message)) raise(std::get<Verdict>(*message));
    const Welcome* welcome = message ? std::get_if<Welcome>(&*message) : nullptr;
    if (welcome == nullptr ||
        !secret_.check(welcome_statement(challenge.nonce, hello, welcome->members), welcome->proof))
      wrong_host();
    const auto found = std::ranges::find(welcome->members, mine().rank);
    if (found == welcome->members.begin() || found == welcome->members.end()) wrong_host();
    return {welcome->members, {static_cast<int>(found - welcome->members.begin()), {}, std::move(root)}};
  }

  [[noreturn]] void wrong_host() const {
    throw Disagreement(fmt::format(
        "what answers at {} is not rank {} of this mixcomm job: it does not know the job's secret, "
        "or is another program; check the host, the port and MIXCOMM_SECRET",
        place_.name(), known_.first()));
  }

  [[noreturn]] void lost() const {
    const int host = known_.first();
    throw PeerGone(
        fmt::format(
            "rank {} closed its connection to rank {} while joining the rendezvous, or does not speak "
            "mixcomm's rendezvous; look at its output, and check that {} is rank {}'s",
            host, mine().rank, place_.name(), host),
        {host});
  }

  const Appointment& appointment_;
  Known& known_;
  MeetingPlace place_;
  Secret secret_;
};

}  // namespace

Met meet(const Appointment& appointment) {
  Known known(appointment);
  known.look();
  if (known.first() != appointment.info.rank)
    if (std::optional<Met> met = Visitor(appointment, known).join()) return std::move(*met);
  return Host(appointment, known).receive_everyone();
}

}  // namespace mixcomm
