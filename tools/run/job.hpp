// Starts one process per rank and stays with them until all have ended.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace mixcomm::tools {

struct Job {
  int ranks = 1;
  int port = 0;  ///< of 127.0.0.1, where the ranks meet; 0: any free one

  /// What the process of a rank does, once MIXCOMM_RANK, _WORLD_SIZE, _HOST, _PORT, _SECRET and (rank 0)
  /// _LISTENER are set: it becomes another program, or returns an exit code. It must not throw.
  std::function<int(int rank)> body;

  bool tag = false;  ///< "[rank] " before each line that a rank writes
  std::chrono::milliseconds grace{
      5000};  ///< for the others, from the first failure to SIGTERM, and on to SIGKILL
  std::chrono::milliseconds limit{0};            ///< of the whole job; 0: none
  std::function<void(const std::string&)> note;  ///< told what goes wrong, a line at a time, if set
};

/// How one rank ended.
struct RankEnd {
  int rank = -1;
  int code = 0;    ///< its exit code
  int signal = 0;  ///< or what killed it
  [[nodiscard]] bool failed() const { return code != 0 || signal != 0; }
};

/// "rank 2 was killed by signal 9 (Killed)"
[[nodiscard]] std::string to_string(const RankEnd& end);

struct JobEnd {
  /// Of the first rank that failed, 128 + signal if it was killed; 128 + signal if this process was told to
  /// end; 124 if the limit passed; 0.
  int exit_code = 0;
  std::vector<RankEnd> failures;  ///< of ranks that failed by themselves, in the order of time
  bool interrupted = false;       ///< by a signal to this process
};

/// Runs the job. SIGINT, SIGTERM and SIGHUP are passed on. Each rank leads a process group; when the job is
/// over, none of their members is left. To be called while this process has one thread. Throws SystemError
/// (port in use, no more processes).
[[nodiscard]] JobEnd run_job(const Job& job);

}  // namespace mixcomm::tools
