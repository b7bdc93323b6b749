// Ranks as processes: a star of connections around rank 0, used in set-up alone.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>

#include "bootstrap/descriptors.hpp"
#include "bootstrap/memory.hpp"
#include "bootstrap/place.hpp"
#include "bootstrap/rendezvous.hpp"
#include "bootstrap/socket.hpp"
#include "bootstrap/system_call.hpp"
#include "death_watch.hpp"
#include "mixcomm/bootstrap.hpp"
#include "mixcomm/error.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm {
namespace {

class ProcessBootstrap final : public Bootstrap {
 public:
  explicit ProcessBootstrap(const Meeting& meeting)
      : info_(meeting.info), timeout_(meeting.timeout), members_{meeting.info.rank} {
    if ((first_ranks(info_.world) & ~meeting.absent) != just(info_.rank)) {
      Met met = meet(meeting);
      members_ = std::move(met.members);
      star_ = std::move(met.star);
    }
  }

  [[nodiscard]] int rank() const override { return star_.rank; }
  [[nodiscard]] int world() const override { return static_cast<int>(members_.size()); }

  std::vector<std::string> exchange(std::string_view step, std::string_view mine) override {
    if (mine.size() > max_exchange_bytes)
      throw InvalidArgument(
          fmt::format("{}: a message of {} bytes is longer than {}", step, mine.size(), max_exchange_bytes));
    if (world() == 1) return {std::string(mine)};
    // Once a step has failed, ranks may be in different ones, and what lies in the sockets belongs to
    // another.
    if (failure_) std::rethrow_exception(failure_);
    try {
      return exchange_over(star_, world(), step, mine, timeout_);
    } catch (...) {
      failure_ = std::current_exception();
      throw;
    }
  }

  std::shared_ptr<std::byte> share_memory(std::size_t bytes) override {
    check_same_size(exchange("comparing sizes of shared memory", std::to_string(bytes)));
    Fd mine;
    std::string problem;
    if (rank() == 0) try {
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
    return pass(step, {mine, ""});
  }

  std::span<const Fd> processes() override {
    if (processes_.empty()) {
      check_one_host();
      Fd mine;
      std::string problem;
      try {
        mine = this_process();
      } catch (const SystemError& error) {
        problem = error.what();
      }
      processes_ = pass("watching the ranks", {mine.get(), problem});
    }
    return processes_;
  }

  Survivors survivors(std::span<const int> lost) override {
    for (const int r : lost)
      if (r < 0 || r >= world() || r == rank())
        throw InvalidArgument(
            fmt::format("rank {} of {} cannot go on without rank {}: name the other ranks that were lost, as "
                        "Timeout::missing() does",
                        rank(), world(), r));
    if (!failure_)
      failure_ = std::make_exception_ptr(Error("this bootstrap has lost ranks: use that of the survivors"));
    // Meet in the numbers that the launcher gave: they are the same for all, however often ranks were lost.
    Meeting meeting{.info = info_, .absent = first_ranks(info_.world), .watch = nullptr, .timeout = timeout_};
    for (int r = 0; r < world(); ++r)
      if (std::ranges::find(lost, r) == lost.end()) meeting.absent &= ~just(number(r));
    const DeathWatch watch(processes_, members_);
    meeting.watch = &watch;
    try {
      auto next = std::make_unique<ProcessBootstrap>(meeting);
      Survivors result;
      for (const int launched : next->members_) result.ranks.push_back(member(launched));
      result.bootstrap = std::move(next);
      return result;
    } catch (const PeerGone& error) {
      rethrow(error);
    } catch (const Timeout& error) {
      rethrow(error);
    }
  }

 private:
  std::vector<Fd> pass(std::string_view step, const Offer& mine) {
    return pass_descriptors(*this, step, mine,
                            {timeout_, [this] { return gone(star_); }, [this] { return speaking(star_); }});
  }

  [[nodiscard]] int number(int member) const { return members_[static_cast<std::size_t>(member)]; }

  /// Whose launcher's number is that; world() if nobody's.
  [[nodiscard]] int member(int launched) const {
    return static_cast<int>(std::ranges::find(members_, launched) - members_.begin());
  }

  /// The ranks of an error, which are the launcher's, as this bootstrap counts them.
  template <class E>
  [[noreturn]] void rethrow(const E& error) const {
    std::vector<int> missing;
    for (const int r : error.missing()) missing.push_back(member(r));
    const bool renumbered = members_.back() != world() - 1;
    throw E(std::string(error.what()) + (renumbered ? " (ranks as the launcher counts them)" : ""), missing);
  }

  /// Memory without a name, for this user alone: nothing is left behind, however the ranks end. Its size is
  /// sealed, so that no rank can take pages away from under the others.
  static Fd make_memory(std::size_t bytes) {
    Fd fd(memfd_create("mixcomm", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    const auto check = [bytes](bool succeeded, std::string_view call) {
      if (!succeeded) throw_failed(fmt::format("cannot make {} bytes of shared memory", bytes), call);
    };
    check(fd.valid(), "memfd_create");
    check(fchmod(fd.get(), S_IRUSR | S_IWUSR) == 0, "fchmod");
    check(ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0, "ftruncate");
    check(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0, "fcntl(F_ADD_SEALS)");
    return fd;
  }

  void check_one_host() {
    if (one_host_) return;
    constexpr char failed = '!';
    std::string mine;
    try {
      mine = host_identity();
    } catch (const SystemError& error) {
      mine = failed + std::string(error.what());
    }
    const auto hosts = exchange("comparing hosts", mine);
    for (std::size_t r = 0; r < hosts.size(); ++r)
      if (hosts[r].starts_with(failed))
        throw SystemError(fmt::format("rank {}, comparing hosts: {}", r, hosts[r].substr(1)));
    std::vector<int> elsewhere;
    for (std::size_t r = 0; r < hosts.size(); ++r)
      if (hosts[r] != hosts[0]) elsewhere.push_back(static_cast<int>(r));
    if (!elsewhere.empty())
      throw Unsupported(
          fmt::format("{} run on another host than rank 0; memory and file descriptors are shared within one "
                      "host, so all ranks must run there (its boot and name: '{}', rank 0's: '{}')",
                      name_ranks(elsewhere), hosts[static_cast<std::size_t>(elsewhere[0])], hosts[0]));
    one_host_ = true;
  }

  LaunchInfo info_;
  Milliseconds timeout_;
  std::vector<int> members_;  ///< the numbers that the launcher gave to the ranks
  Star star_;
  std::vector<Fd> processes_;  ///< by rank, once they were asked for
  bool one_host_ = false;      ///< known to be so
  std::exception_ptr failure_;
};

}  // namespace

std::unique_ptr<Bootstrap> bootstrap_processes(const LaunchInfo& info, Milliseconds timeout) {
  check_timeout(timeout);
  if (info.world > max_ranks)
    throw Unsupported(fmt::format("a job holds at most {} ranks, not {}", max_ranks, info.world));
  return std::make_unique<ProcessBootstrap>(
      Meeting{.info = info, .absent = 0, .watch = nullptr, .timeout = timeout});
}

}  // namespace mixcomm
