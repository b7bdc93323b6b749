// The threads that help a rank copy and sum.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "mixcomm/communicator.hpp"

namespace mixcomm::cpu {

/// A rank's helpers. They take pieces of work, which wait for nobody for long, so a piece ends, however ranks
/// fail; all other waiting for ranks is the caller's. Made when they are first needed, for the processors
/// that the thread which made the team could run on: an engine may bind its threads to one each later on.
///
/// Each helper has a slot. It looks at it for a while, giving its processor up in between, then it sleeps. A
/// piece that its helper has not taken when the caller has time is the caller's: one that sleeps, or has no
/// processor, or could not be started, keeps nobody waiting.
class ThreadTeam {
 public:
  /// The calling thread's team, which all communicators made by this thread share. It lives as long as they
  /// do.
  [[nodiscard]] static std::shared_ptr<ThreadTeam> of_this_thread();

  ThreadTeam();
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  /// From here on helpers leave their processors to others at once: there are fewer than threads.
  void share_processors();

  /// piece(i) for each i in [0, pieces), at most most_threads, once each, on any threads. When it returns,
  /// all are through, and the caller sees what they wrote. They must not throw. Two callers at a time: the
  /// second one does all by itself.
  template <class Piece>
  void run(int pieces, const Piece& piece) {
    run_pieces(pieces, {[](const void* f, int i) { (*static_cast<const Piece*>(f))(i); }, &piece});
  }

  /// Says that a run of `pieces` will come soon: helpers that sleep begin to wake up.
  void rouse(int pieces);

  /// How many helpers there are.
  [[nodiscard]] int helpers() const { return made_; }

 private:
  /// What a run does; valid from when its slots are free until they are done.
  struct Job {
    void (*call)(const void* piece, int i) = nullptr;
    const void* piece = nullptr;
  };
  struct Slot;
  struct Shared;

  void run_pieces(int pieces, const Job& job);
  /// Makes the helpers that a run of `pieces` needs, as far as the system allows threads.
  void need(int pieces);

  std::unique_ptr<Shared> shared_;  ///< with the helpers
  std::atomic_flag busy_;
  std::uint64_t runs_ = 0;
  int made_ = 0;
  bool may_make_ = true;
  cpu_set_t usable_;
  int process_;  ///< a forked child has no helpers
};

}  // namespace mixcomm::cpu
