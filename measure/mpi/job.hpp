// A job of another library that waits beside the measured ranks, asleep, until it is its turn.
#pragma once

#include <memory>
#include <string>

#include "measure/bench_cells.hpp"
#include "measure/meeting.hpp"
#include "measure/mpi/control.hpp"
#include "measure/mpi/settings.hpp"
#include "mixcomm/mixcomm.hpp"

namespace mixcomm::tools::mpi {

/// What is the same for all chunks of a job.
struct JobOptions {
  int tp = 1;
  int dp = 1;
  int threads = 1;  ///< of each rank
  DType dtype = DType::bf16;
  std::size_t most_bytes = 0;  ///< of the largest tensor
  Milliseconds timeout = default_timeout;
};

class Job {
 public:
  /// Starts it; to be called before this process starts ranks as processes, which then share it. Throws
  /// Unsupported, naming what to install, where that MPI is not there.
  Job(const Flavour& flavour, const Setting& setting, const JobOptions& options);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// "openmpi (no kernel copies)"
  [[nodiscard]] std::string name() const;
  [[nodiscard]] const std::string& flavour() const { return flavour_.name; }
  [[nodiscard]] const std::string& setting() const { return setting_.name; }
  /// Whether it can carry out such calls on its grid.
  [[nodiscard]] bool can(const Cell& cell) const { return flavour_.can(cell, options_.tp, options_.dp); }

  /// By one rank: has it run some calls of `cell`.
  void order(const Cell& cell, std::size_t hidden, std::uint32_t calls, bool check) const;
  /// By every rank, after that: sleeps until they have been made. Throws SystemError, with what the job said,
  /// if it ended or failed; Timeout if it took longer than the timeout.
  void wait() const;
  /// Microseconds of each call of the last order, the longest of all ranks.
  void collect(Latencies& into) const;

 private:
  void start(const std::string& worker);
  [[nodiscard]] bool has_ended() const;
  [[nodiscard]] std::string said() const;

  Flavour flavour_;
  Setting setting_;
  JobOptions options_;
  Fd memory_fd_;
  Fd output_;
  std::shared_ptr<std::byte> memory_;
  Control* control_ = nullptr;
  std::unique_ptr<Meeting> place_;  ///< where the latencies are
  int pid_ = -1;
};

/// Where the program (or library) that serves as a rank of that flavour is. Throws Unsupported, saying what
/// to install, if it, or its launcher, or the package itself is not there.
[[nodiscard]] std::string find_worker(const Flavour& flavour);

}  // namespace mixcomm::tools::mpi
