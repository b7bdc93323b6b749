// Communicators over all ranks and over teams of them, made when a plan asks for them.
#include "mixcomm/communicators.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "mixcomm/error.hpp"
#include "plan/team_bootstrap.hpp"

namespace mixcomm {

struct Communicators::State {
  struct Made {
    PlanGrid grid;
    std::unique_ptr<Bootstrap> team;  ///< none where it is all ranks
    Communicator communicator;
  };
  Bootstrap* bootstrap = nullptr;
  CommunicatorOptions options;
  Communicator* only = nullptr;
  std::vector<std::unique_ptr<Made>> made;

  /// In the order in which all ranks made them.
  [[nodiscard]] std::vector<Communicator*> all() const {
    if (only != nullptr) return {only};
    std::vector<Communicator*> all;
    for (const auto& each : made) all.push_back(&each->communicator);
    return all;
  }
};

Communicators::Communicators(Bootstrap& bootstrap, const CommunicatorOptions& options)
    : state_(new State{&bootstrap, options, nullptr, {}}) {}
Communicators::Communicators(Communicator& only) : state_(new State{nullptr, only.options(), &only, {}}) {}
Communicators::~Communicators() = default;

int Communicators::rank() const {
  return state_->only != nullptr ? state_->only->grid().rank() : state_->bootstrap->rank();
}
int Communicators::world() const {
  return state_->only != nullptr ? state_->only->grid().world.size : state_->bootstrap->world();
}

void Communicators::pause() {
  for (Communicator* each : state_->all()) each->pause();
}
void Communicators::resume() {
  for (Communicator* each : state_->all()) each->resume();
}
bool Communicators::paused() const {
  return std::ranges::any_of(state_->all(), [](const Communicator* each) { return each->paused(); });
}

Communicator& Communicators::on(const PlanGrid& grid) {
  if (state_->only != nullptr) {
    const Grid& own = state_->only->grid();
    if (grid != PlanGrid{1, own.tp.size, own.dp.size})
      throw Unsupported(fmt::format(
          "this plan needs a communicator on a grid of {}, but was given one of {}x{} alone; pass "
          "Communicators of a bootstrap, which can make it",
          to_string(grid), own.tp.size, own.dp.size));
    return *state_->only;
  }
  for (const auto& each : state_->made)
    if (each->grid == grid) return each->communicator;
  std::unique_ptr<Bootstrap> team;
  if (!grid.is_world(world())) team = team_bootstrap(*state_->bootstrap, grid.span());
  CommunicatorOptions options = state_->options;
  options.tp = grid.tp;
  options.dp = grid.dp;
  Communicator communicator(team ? *team : *state_->bootstrap, options);
  state_->made.push_back(
      std::make_unique<State::Made>(State::Made{grid, std::move(team), std::move(communicator)}));
  return state_->made.back()->communicator;
}

}  // namespace mixcomm
