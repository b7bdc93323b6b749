// A part of the ranks as a bootstrap of their own.
#include "plan/team_bootstrap.hpp"

#include <string>
#include <utility>
#include <vector>

#include "all_or_none.hpp"
#include "bootstrap/mailbox.hpp"

namespace mixcomm {
namespace {

class TeamBootstrap : public Bootstrap {
 public:
  TeamBootstrap(Bootstrap& whole, Span span)
      : whole_(whole), team_(span.team_of(whole.rank())), span_(span) {}

  [[nodiscard]] int rank() const override { return team_.member; }
  [[nodiscard]] int world() const override { return team_.size; }

  std::vector<std::string> exchange(std::string_view step, std::string_view mine) override {
    return of_team(whole_.exchange(step, mine));
  }

  /// One piece of memory for all teams, of which each has its part: page aligned, as a whole one would be.
  std::shared_ptr<std::byte> share_memory(std::size_t bytes) override {
    constexpr std::size_t page = 4096;
    const std::size_t part = (bytes + page - 1) / page * page;
    const auto teams = static_cast<std::size_t>(whole_.world() / span_.size());
    auto all = whole_.share_memory(part * teams);
    // Teams by the rank of their first member: those before it, less the ranks that are no first members.
    const int outer = team_.first / span_.end;
    const int index = outer * span_.begin + team_.first % span_.begin;
    return {all, all.get() + part * static_cast<std::size_t>(index)};
  }

  std::vector<Fd> exchange_descriptors(std::string_view step, int mine) override {
    return of_team(whole_.exchange_descriptors(step, mine));
  }

  std::span<const Fd> processes() override {
    const std::span<const Fd> all = whole_.processes();
    if (all.empty() || !processes_.empty()) return processes_;
    std::vector<Fd> copies;
    all_or_none(whole_, "watching the ranks of a team", [&] {
      for (int m = 0; m < team_.size; ++m)
        copies.push_back(duplicate(all[static_cast<std::size_t>(team_.rank(m))].get()));
      return std::string();
    });
    processes_ = std::move(copies);
    return processes_;
  }

  Hosts hosts() override {
    const Hosts all = whole_.hosts();
    std::vector<std::string> names;
    for (const int host : all.of) names.push_back(all.names[static_cast<std::size_t>(host)]);
    return Hosts::from_identities(of_team(std::move(names)));
  }

  [[nodiscard]] int rank_in_whole(int rank) const override { return whole_.rank_in_whole(team_.rank(rank)); }

 private:
  template <class T>
  std::vector<T> of_team(std::vector<T> all) const {
    std::vector<T> mine;
    mine.reserve(static_cast<std::size_t>(team_.size));
    for (int m = 0; m < team_.size; ++m)
      mine.push_back(std::move(all[static_cast<std::size_t>(team_.rank(m))]));
    return mine;
  }

  Bootstrap& whole_;
  Team team_;
  Span span_;
  std::vector<Fd> processes_;  ///< by member, once they were asked for
};

}  // namespace

std::unique_ptr<Bootstrap> team_bootstrap(Bootstrap& whole, Span span) {
  return std::make_unique<TeamBootstrap>(whole, span);
}

}  // namespace mixcomm
