// Ranks as processes: a star of connections around rank 0, used in set-up alone.
#include <fmt/format.h>

#include <algorithm>
#include <exception>

#include "bootstrap/host_bootstrap.hpp"
#include "bootstrap/rendezvous.hpp"
#include "bootstrap/star_bootstrap.hpp"
#include "death_watch.hpp"
#include "mixcomm/bootstrap.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

/// Where this rank alone is left, nobody is to be met.
Met meet_others(const Appointment& appointment) {
  const LaunchInfo& info = appointment.info;
  if ((first_ranks(info.world) & ~appointment.absent) == just(info.rank)) return {{info.rank}, {}};
  return meet(appointment);
}

class ProcessBootstrap final : public StarBootstrap {
 public:
  explicit ProcessBootstrap(const Appointment& appointment)
      : ProcessBootstrap(appointment, meet_others(appointment)) {}

  Hosts hosts() override { return sharing_.hosts(); }
  Bootstrap* own_host() override {
    if (own_host_ == nullptr && hosts().count() > 1) own_host_ = bootstrap_host(meeting_, hosts(), timeout_);
    return own_host_.get();
  }

  Survivors survivors(std::span<const int> lost) override {
    for (const int r : lost)
      if (r < 0 || r >= world() || r == rank())
        throw InvalidArgument(
            fmt::format("rank {} of {} cannot go on without rank {}: name the other ranks that were lost, as "
                        "Timeout::missing() does",
                        rank(), world(), r));
    meeting_.close(
        std::make_exception_ptr(Error("this bootstrap has lost ranks: use that of the survivors")));
    // Meet in the numbers that the launcher gave: they are the same for all, however often ranks were lost.
    Appointment again{
        .info = info_, .absent = first_ranks(info_.world), .watch = nullptr, .timeout = timeout_};
    for (int r = 0; r < world(); ++r)
      if (std::ranges::find(lost, r) == lost.end()) again.absent &= ~just(number(r));
    const DeathWatch watch(sharing_.known_processes(), members_);
    again.watch = &watch;
    try {
      auto next = std::make_unique<ProcessBootstrap>(again);
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
  ProcessBootstrap(const Appointment& appointment, Met met)
      : StarBootstrap(std::move(met.star), met.members.size(), appointment.timeout),
        info_(appointment.info),
        timeout_(appointment.timeout),
        members_(std::move(met.members)) {}

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

  LaunchInfo info_;
  Milliseconds timeout_;
  std::vector<int> members_;  ///< the numbers that the launcher gave to the ranks
  std::unique_ptr<Bootstrap> own_host_;
};

}  // namespace

std::unique_ptr<Bootstrap> bootstrap_processes(const LaunchInfo& info, Milliseconds timeout) {
  check_timeout(timeout);
  if (info.world > max_ranks)
    throw Unsupported(fmt::format("a job holds at most {} ranks, not {}", max_ranks, info.world));
  return std::make_unique<ProcessBootstrap>(
      Appointment{.info = info, .absent = 0, .watch = nullptr, .timeout = timeout});
}

}  // namespace mixcomm
