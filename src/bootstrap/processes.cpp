// Ranks as processes: a star of TCP connections around rank 0, used in set-up alone.
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "bootstrap/arrivals.hpp"
#include "bootstrap/descriptors.hpp"
#include "bootstrap/memory.hpp"
#include "bootstrap/place.hpp"
#include "bootstrap/socket.hpp"
#include "mixcomm/bootstrap.hpp"
#include "mixcomm/error.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm {
namespace {

using nlohmann::json;

constexpr std::string_view protocol = "mixcomm rendezvous 1";

/// Other ranks wait a little longer than rank 0, so that its verdict, which knows who is missing, reaches
/// them.
constexpr Milliseconds grace{3000};

std::string to_bytes(const json& message) {
  const auto bytes = json::to_msgpack(message);
  return {bytes.begin(), bytes.end()};
}

/// Stops the parser at nesting that no message of ours has: it is recursive, and the message may be
/// anybody's.
class DepthCheck : public nlohmann::json_sax<json> {
 public:
  bool null() override { return true; }
  bool boolean(bool /*value*/) override { return true; }
  bool number_integer(number_integer_t /*value*/) override { return true; }
  bool number_unsigned(number_unsigned_t /*value*/) override { return true; }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return true; }
  bool string(string_t& /*value*/) override { return true; }
  bool binary(binary_t& /*value*/) override { return true; }
  bool key(string_t& /*value*/) override { return true; }
  bool start_object(std::size_t /*elements*/) override { return ++depth_ <= most; }
  bool start_array(std::size_t /*elements*/) override { return ++depth_ <= most; }
  bool end_object() override { return depth_-- > 0; }
  bool end_array() override { return depth_-- > 0; }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/,
                   const json::exception& /*error*/) override {
    return false;
  }

 private:
  static constexpr int most = 3;
  int depth_ = 0;
};

/// Discarded (is_discarded()) for anything malformed.
json from_bytes(const std::string& bytes) {
  DepthCheck check;
  if (!json::sax_parse(bytes, &check, json::input_format_t::msgpack)) return json(json::value_t::discarded);
  return json::from_msgpack(bytes, true, false);
}

template <class T>
T field(const json& message, const char* name, T otherwise) {
  const auto found = message.is_object() ? message.find(name) : message.end();
  if (!message.is_object() || found == message.end()) return otherwise;
  try {
    return found->get<T>();
  } catch (const json::exception&) {
    return otherwise;
  }
}

json binary(std::string_view text) {
  return json::binary({text.begin(), text.end()});
}
std::string text_of(const json& value) {
  if (!value.is_binary()) return {};
  const auto& bytes = value.get_binary();
  return {bytes.begin(), bytes.end()};
}

/// A time that depends on how long the comparison goes on would tell the secret letter by letter.
bool equal_secret(const std::string& a, const std::string& b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  return difference == 0;
}

std::string plural(const std::vector<int>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

class ProcessBootstrap final : public Bootstrap {
 public:
  ProcessBootstrap(const LaunchInfo& info, Milliseconds timeout) : info_(info), timeout_(timeout) {
    check_timeout(timeout);
    if (info.world > max_ranks)
      throw Unsupported(fmt::format("a job holds at most {} ranks, not {}", max_ranks, info.world));
    if (info.world == 1) return;
    if (info.rank == 0)
      gather_ranks();
    else
      join_rank_0();
  }

  [[nodiscard]] int rank() const override { return info_.rank; }
  [[nodiscard]] int world() const override { return info_.world; }

  std::vector<std::string> exchange(std::string_view step, std::string_view mine) override {
    if (mine.size() > max_exchange_bytes)
      throw InvalidArgument(
          fmt::format("{}: a message of {} bytes is longer than {}", step, mine.size(), max_exchange_bytes));
    if (info_.world == 1) return {std::string(mine)};
    // Once a step has failed, ranks may be in different ones, and what lies in the sockets belongs to
    // another.
    if (failure_) std::rethrow_exception(failure_);
    try {
      return exchange_or_fail(step, mine);
    } catch (...) {
      failure_ = std::current_exception();
      throw;
    }
  }

  std::shared_ptr<std::byte> share_memory(std::size_t bytes) override {
    check_same_size(exchange("comparing sizes of shared memory", std::to_string(bytes)));
    Fd mine;
    std::string problem;
    if (info_.rank == 0) try {
        mine = make_memory(bytes);
      } catch (const SystemError& error) {
        problem = error.what();
      }
    const std::vector<Fd> descriptors = exchange_descriptors("sharing memory", mine.get());
    const Fd& fd = descriptors[0];
    std::shared_ptr<std::byte> memory;
    if (fd.valid()) try {
        memory = map_shared(bytes, fd.get());
      } catch (const SystemError& error) {
        problem = error.what();
      }
    for (const std::string& each : exchange("mapping shared memory", problem))
      if (!each.empty()) throw SystemError(each);
    return memory;
  }

  std::vector<Fd> exchange_descriptors(std::string_view step, int mine) override {
    check_one_host();
    return pass_descriptors(*this, step, mine, timeout_);
  }

 private:
  std::vector<std::string> exchange_or_fail(std::string_view step, std::string_view mine) {
    const json verdict = info_.rank == 0 ? collect(step, mine) : ask(step, mine);
    raise_if_failed(verdict);
    std::vector<std::string> messages;
    const auto all = verdict.find("all");
    if (all != verdict.end())
      for (const json& each : *all) messages.push_back(text_of(each));
    if (messages.size() != static_cast<std::size_t>(info_.world))
      throw SystemError(fmt::format("rank 0 sent a malformed answer while {}", step));
    return messages;
  }

  /// Memory without a name: nothing is left behind, however the ranks end. Its size is sealed, so that no
  /// rank can take pages away from under the others.
  static Fd make_memory(std::size_t bytes) {
    Fd fd(memfd_create("mixcomm", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 ||
        fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
      throw SystemError(
          fmt::format("cannot make {} bytes of shared memory: {}", bytes, std::strerror(errno)));
    return fd;
  }

  void check_one_host() {
    if (one_host_) return;
    const auto hosts = exchange("comparing hosts", host_identity());
    std::vector<int> elsewhere;
    for (std::size_t r = 0; r < hosts.size(); ++r)
      if (hosts[r] != hosts[0]) elsewhere.push_back(static_cast<int>(r));
    if (!elsewhere.empty())
      throw Unsupported(
          fmt::format("{} run on another host than rank 0; memory and file descriptors are shared within one "
                      "host, so all ranks must run there",
                      plural(elsewhere)));
    one_host_ = true;
  }

  // --- rank 0
  // ---------------------------------------------------------------------------------------------------------

  void gather_ranks() {
    const Deadline deadline(timeout_);
    Fd listener = inherited_listener(info_.port);
    if (!listener.valid()) listener = listen_on(info_.host, info_.port);
    std::optional<Arrivals> arrivals(std::move(listener));
    peers_.resize(static_cast<std::size_t>(info_.world));
    for (int missing = info_.world - 1; missing > 0;) {
      std::optional<Arrival> arrival = arrivals->next(deadline);
      if (!arrival) {
        std::vector<int> ranks;
        for (int r = 1; r < info_.world; ++r)
          if (!peers_[static_cast<std::size_t>(r)].valid()) ranks.push_back(r);
        const std::string text = fmt::format("{} did not come to the rendezvous at {}:{} within {} ms",
                                             plural(ranks), info_.host, info_.port, timeout_.count());
        fail_everyone("timeout", text, ranks);
      }
      if (admit(std::move(*arrival))) --missing;
    }
    // Closed before anybody goes on: a rank that is quick to begin another rendezvous must not end up in this
    // one's queue.
    arrivals.reset();
    for (int r = 1; r < info_.world; ++r)
      if (!send_message(peers_[static_cast<std::size_t>(r)], to_bytes({{"protocol", protocol}, {"ok", true}}),
                        deadline))
        fail_everyone("timeout", fmt::format("rank {} went away during the rendezvous", r), {r});
  }

  /// 'mixcomm run' opens the port before it starts the ranks, so that nobody can take it in between.
  /// Any other descriptor of that number is somebody else's, and stays as it is.
  static Fd inherited_listener(int port) {
    const char* text = std::getenv("MIXCOMM_LISTENER");
    if (text == nullptr) return {};
    int fd = -1;
    const char* end = text + std::strlen(text);
    const auto [rest, error] = std::from_chars(text, end, fd);
    const bool ours = error == std::errc() && rest == end && listens_on(fd, port);
    unsetenv("MIXCOMM_LISTENER");
    return ours && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0 ? Fd(fd) : Fd();
  }

  /// A stranger (no hello, another protocol) is dropped; a wrong secret, world or rank is told why.
  bool admit(Arrival arrival) {
    const json hello = from_bytes(arrival.message);
    if (field<std::string>(hello, "protocol", "") != protocol) return false;
    const int rank = field(hello, "rank", -1);
    const int world = field(hello, "world", -1);
    std::string problem;
    if (!equal_secret(field<std::string>(hello, "secret", ""), info_.secret))
      problem =
          fmt::format("rank {} has another MIXCOMM_SECRET than rank 0: it belongs to another job", rank);
    else if (world != info_.world)
      problem = fmt::format("rank {} was started for {} ranks, but rank 0 for {}", rank, world, info_.world);
    else if (rank < 1 || rank >= info_.world)
      problem = fmt::format("rank {} is not from 1 to {}", rank, info_.world - 1);
    else if (peers_[static_cast<std::size_t>(rank)].valid())
      problem = fmt::format("two processes came as rank {}", rank);
    if (!problem.empty()) {
      const Deadline at_once(Milliseconds(0));
      (void)send_message(arrival.socket, to_bytes({{"error", "disagreement"}, {"text", problem}}), at_once);
      return false;
    }
    peers_[static_cast<std::size_t>(rank)] = std::move(arrival.socket);
    return true;
  }

  /// Rank 0's side of an exchange: everyone's message, or the failure that everyone is told.
  json collect(std::string_view step, std::string_view mine) {
    const Deadline deadline(timeout_);
    json all = json::array({binary(mine)});
    std::vector<int> late;
    for (int r = 1; r < info_.world; ++r) {
      std::string bytes;
      const Received received = receive_message(peers_[static_cast<std::size_t>(r)], bytes, deadline);
      if (received == Received::closed)
        return fail("timeout",
                    fmt::format("rank {} ended while rank 0 waited for it, {}; look at its output", r, step),
                    {r});
      if (received == Received::late) {
        late.push_back(r);
        continue;
      }
      const json message = from_bytes(bytes);
      const auto theirs = field<std::string>(message, "step", "");
      if (theirs != step)
        return fail("disagreement",
                    fmt::format("rank {} is {}, but rank 0 is {}; all ranks must set up in the same order", r,
                                theirs, step),
                    {});
      all.push_back(message.contains("mine") ? message["mine"] : json());
    }
    if (!late.empty())
      return fail("timeout",
                  fmt::format("rank 0 waited {} ms for {} while {}", timeout_.count(), plural(late), step),
                  late);
    json verdict = {{"all", all}};
    broadcast(verdict);
    return verdict;
  }

  json fail(const std::string& kind, const std::string& text, const std::vector<int>& missing) {
    json verdict = {{"error", kind}, {"text", text}, {"missing", missing}};
    broadcast(verdict);
    return verdict;
  }
  [[noreturn]] void fail_everyone(const std::string& kind, const std::string& text,
                                  const std::vector<int>& missing) {
    raise_if_failed(fail(kind, text, missing));
    std::abort();  // not reached
  }

  void broadcast(const json& verdict) {
    const Deadline deadline(grace);
    for (const Fd& peer : peers_)
      if (peer.valid())
        (void)send_message(peer, to_bytes(verdict),
                           deadline);  // a rank that is gone is found at the next step
  }

  // --- the others
  // -----------------------------------------------------------------------------------------------------

  void join_rank_0() {
    const std::string hello = to_bytes(
        {{"protocol", protocol}, {"secret", info_.secret}, {"rank", info_.rank}, {"world", info_.world}});
    const Deadline come_by(timeout_);
    const Deadline deadline(timeout_ + grace);
    for (;;) {
      root_ = connect_by(info_.host, info_.port, come_by);
      if (!root_.valid())
        throw Timeout(
            fmt::format(
                "rank {} found nobody at {}:{} within {} ms: rank 0 did not come, or listens elsewhere",
                info_.rank, info_.host, info_.port, timeout_.count()),
            {0});
      (void)send_message(root_, hello, deadline);  // see ask()
      std::string bytes;
      const Received received = receive_message(root_, bytes, deadline);
      if (received == Received::message) return accept_welcome(from_bytes(bytes));
      if (received == Received::late || come_by.passed()) lost_rank_0("joining the rendezvous");
      // Closed without a word: the end of an earlier rendezvous at this place, or this rank was slow to say
      // hello.
      std::this_thread::sleep_for(Milliseconds(5));
    }
  }

  void accept_welcome(const json& answer) const {
    raise_if_failed(answer);
    if (field<std::string>(answer, "protocol", "") != protocol || !field(answer, "ok", false))
      throw Disagreement(
          fmt::format("what answers at {}:{} is not rank 0 of a mixcomm job; check the host and the port",
                      info_.host, info_.port));
  }

  json ask(std::string_view step, std::string_view mine) {
    const Deadline deadline(timeout_ + grace);
    // If rank 0 has ended, what it said before is still there to be read.
    (void)send_message(root_, to_bytes({{"step", step}, {"mine", binary(mine)}}), deadline);
    return answer(step, deadline);
  }

  json answer(std::string_view step, const Deadline& deadline) {
    std::string bytes;
    const Received received = receive_message(root_, bytes, deadline);
    if (received == Received::closed) lost_rank_0(step);
    if (received == Received::late)
      throw Timeout(fmt::format("rank {} waited {} ms for rank 0 while {}", info_.rank,
                                (timeout_ + grace).count(), step),
                    {0});
    return from_bytes(bytes);
  }

  [[noreturn]] void lost_rank_0(std::string_view step) const {
    throw Timeout(
        fmt::format("rank 0 closed its connection to rank {} while {}: it ended, or does not speak mixcomm's "
                    "rendezvous; look at its output, and check that {}:{} is rank 0's",
                    info_.rank, step, info_.host, info_.port),
        {0});
  }

  static void raise_if_failed(const json& verdict) {
    if (!verdict.is_object()) throw SystemError("rank 0 sent a malformed answer during set-up");
    const auto kind = field<std::string>(verdict, "error", "");
    if (kind.empty()) return;
    const auto text = field<std::string>(verdict, "text", "set-up failed on rank 0");
    if (kind == "disagreement") throw Disagreement(text);
    throw Timeout(text, field<std::vector<int>>(verdict, "missing", {}));
  }

  LaunchInfo info_;
  Milliseconds timeout_;
  std::vector<Fd> peers_;  ///< rank 0: by rank
  Fd root_;                ///< the others
  bool one_host_ = false;  ///< known to be so
  std::exception_ptr failure_;
};

}  // namespace

std::unique_ptr<Bootstrap> bootstrap_processes(const LaunchInfo& info, Milliseconds timeout) {
  return std::make_unique<ProcessBootstrap>(info, timeout);
}

}  // namespace mixcomm
