// The communicators of a plan: one for each grid that its operations run on.
#pragma once

#include <memory>

#include "mixcomm/communicator.hpp"
#include "mixcomm/portability.hpp"
#include "mixcomm/transition.hpp"

namespace MIXCOMM_API mixcomm {

/// The communicators of one rank, one for each grid that was asked for. Several LayerCommunicators may share
/// them.
class Communicators {
 public:
  /// Makes communicators over the bootstrap's ranks, or teams of them, when they are asked for. `options`: of
  /// all of them; tp and dp are not looked at. The bootstrap must outlive this.
  Communicators(Bootstrap& bootstrap, const CommunicatorOptions& options);
  /// Only this one, which must outlive this: plans that need another grid are refused.
  explicit Communicators(Communicator& only);
  ~Communicators();
  Communicators(const Communicators&) = delete;
  Communicators& operator=(const Communicators&) = delete;

  /// Collective over all ranks where the grid is asked for the first time. Throws Unsupported if it cannot be
  /// made, and what Communicator's constructor throws.
  [[nodiscard]] Communicator& on(const PlanGrid& grid);

  /// Collective over all ranks: Communicator::pause() and resume() of all that have been asked for, and so of
  /// the memory of the LayerCommunicators on them.
  void pause();
  void resume();
  [[nodiscard]] bool paused() const;

  [[nodiscard]] int rank() const;
  [[nodiscard]] int world() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mixcomm
