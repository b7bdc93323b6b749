#include "tools/run/job.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <thread>

#include "bootstrap/meeting_place.hpp"
#include "bootstrap/socket.hpp"
#include "bootstrap/system_call.hpp"
#include "mixcomm/error.hpp"
#include "tools/run/tagged_lines.hpp"

namespace mixcomm::tools {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int limit_passed = 124;  // as timeout(1) has it

[[noreturn]] void throw_system(const char* what) {
  throw SystemError(failure_of(what, errno));
}

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  return set;
}

/// Signals come as data of a descriptor while this lives, and in the usual way before and after.
class SignalWatch {
 public:
  SignalWatch() {
    const sigset_t set = watched_signals();
    sigprocmask(SIG_BLOCK, &set, &before_);
    fd_ = Fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd_.valid()) throw_system("signalfd");
  }
  ~SignalWatch() { restore(); }
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  [[nodiscard]] int fd() const { return fd_.get(); }
  void restore() const { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  /// In a process that was forked: signals come in the usual way, and the descriptor is free for other use.
  void leave() {
    restore();
    fd_.reset();
  }

  /// The next one that has come, or 0.
  [[nodiscard]] int next() const {
    signalfd_siginfo info{};
    return read(fd_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))
               ? static_cast<int>(info.ssi_signo)
               : 0;
  }

 private:
  sigset_t before_{};
  Fd fd_;
};

struct Process {
  pid_t pid = 0;
  bool ended = false;
};

/// Where the ranks meet; `port` is any if it is 0, and known then.
Fd listen_at(int& port, const std::string& secret) {
  if (has_ipv4_loopback()) {
    Fd listener = listen_on("127.0.0.1", port);
    port = port_of(listener);
    return listener;
  }
  // A Unix socket: the port is a part of its name, and nobody hands out one that is free.
  std::mt19937 random{std::random_device()()};
  for (int tries = port == 0 ? 100 : 1;; --tries) {
    const int candidate = port != 0 ? port : std::uniform_int_distribution(10'000, 60'000)(random);
    try {
      Fd listener = MeetingPlace({"mixcomm run", 0, 1, "127.0.0.1", candidate, secret}).listen();
      port = candidate;
      return listener;
    } catch (const SystemError&) {
      if (tries == 1) throw;
    }
  }
}

class Supervisor {
 public:
  explicit Supervisor(const Job& job) : job_(job), grace_(job.grace) {}
  ~Supervisor() { clean_up(); }
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  void start();
  JobEnd supervise();

 private:
  [[noreturn]] void become_rank(int rank, const Fd& listener, const std::string& secret, int port,
                                const OutputPipes& pipes);
  void collect();
  void handle_signal(int signal);
  void handle_deadlines();
  void send(int signal) const;
  void clean_up();
  void note(const std::string& text) const {
    if (job_.note) job_.note(text);
  }
  /// From now on the ranks have `grace` until the next, harder signal.
  void hurry() {
    if (!deadline_) deadline_ = Clock::now() + grace_;
  }
  [[nodiscard]] bool all_ended() const {
    return std::all_of(processes_.begin(), processes_.end(), [](const Process& p) { return p.ended; });
  }

  const Job& job_;
  milliseconds grace_;
  SignalWatch signals_;
  std::vector<Process> processes_;
  TaggedLines lines_;
  JobEnd end_;
  std::optional<Clock::time_point> limit_;
  std::optional<Clock::time_point> deadline_;
  int sent_ = 0;  ///< SIGTERM or SIGKILL, once this process has sent it by itself
};

void Supervisor::start() {
  const std::string secret = random_hex(16);
  int port = job_.port;
  const Fd listener = listen_at(port, secret);
  // What ranks leave behind comes to this process, not to init, so that it can be waited for.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  std::fflush(stdout);
  std::fflush(stderr);
  const pid_t parent = getpid();
  for (int rank = 0; rank < job_.ranks; ++rank) {
    OutputPipes pipes = job_.tag ? OutputPipes::make() : OutputPipes();
    const pid_t pid = fork();
    if (pid < 0) throw_system("cannot start another process");
    if (pid == 0) {
      setpgid(0, 0);
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(1);  // it died before this process asked to be told
      become_rank(rank, listener, secret, port, pipes);
    }
    setpgid(pid, pid);  // here too: whoever comes first, a signal to the group finds it
    processes_.push_back({pid, false});
    if (job_.tag) lines_.add(rank, std::move(pipes));
  }
  if (job_.limit > milliseconds::zero()) limit_ = Clock::now() + job_.limit;
}

void Supervisor::become_rank(int rank, const Fd& listener, const std::string& secret, int port,
                             const OutputPipes& pipes) {
  // What this process has open besides the listener is the watch alone. Without it rank 0 can always open one
  // file more, as it must to tell the others that it cannot open all that it needs.
  signals_.leave();
  // One rank may read what the user pipes in. A terminal none: it is in the hands of this process's group.
  if (rank != 0 || isatty(STDIN_FILENO) == 1) {
    const Fd nothing(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (nothing.valid()) dup2(nothing.get(), STDIN_FILENO);
  }
  pipes.connect();
  setenv("MIXCOMM_RANK", std::to_string(rank).c_str(), 1);
  setenv("MIXCOMM_WORLD_SIZE", std::to_string(job_.ranks).c_str(), 1);
  setenv("MIXCOMM_HOST", "127.0.0.1", 1);
  setenv("MIXCOMM_PORT", std::to_string(port).c_str(), 1);
  setenv("MIXCOMM_SECRET", secret.c_str(), 1);
  setenv("MIXCOMM_RUN_ID", std::to_string(getppid()).c_str(), 1);  // tells this job from one around it
  unsetenv("MIXCOMM_LISTENER");
  unsetenv("MIXCOMM_LAUNCHER");  // named another one, around this one
  if (rank == 0) {
    fcntl(listener.get(), F_SETFD, 0);
    setenv("MIXCOMM_LISTENER", std::to_string(listener.get()).c_str(), 1);
  } else {
    close(listener.get());
  }
  const int code = job_.body(rank);
  std::fflush(stdout);
  std::fflush(stderr);
  _exit(code);
}

JobEnd Supervisor::supervise() {
  collect();
  while (!all_ended()) {
    std::vector<pollfd> fds{{signals_.fd(), POLLIN, 0}};
    lines_.append_to(fds);
    auto next = Clock::now() + std::chrono::hours(1);
    if (limit_) next = std::min(next, *limit_);
    if (deadline_) next = std::min(next, *deadline_);
    const auto left = std::chrono::ceil<milliseconds>(next - Clock::now());
    poll(fds.data(), fds.size(), static_cast<int>(std::max(left, milliseconds::zero()).count()));
    lines_.forward();
    while (const int signal = signals_.next()) handle_signal(signal);
    handle_deadlines();
  }
  clean_up();
  return end_;
}

void Supervisor::collect() {
  for (std::size_t r = 0; r < processes_.size(); ++r) {
    Process& process = processes_[r];
    siginfo_t info{};
    // It stays a zombie until clean_up(), so that its number, which names its group, belongs to it.
    if (process.ended ||
        waitid(P_PID, static_cast<id_t>(process.pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
        info.si_pid == 0)
      continue;
    process.ended = true;
    RankEnd end{static_cast<int>(r), 0, 0};
    (info.si_code == CLD_EXITED ? end.code : end.signal) = info.si_status;
    if (!end.failed() || sent_ != 0 || end_.interrupted) continue;
    if (end_.exit_code == 0) end_.exit_code = end.signal != 0 ? 128 + end.signal : end.code;
    end_.failures.push_back(end);
    const bool first = end_.failures.size() == 1;
    note(to_string(end) + (first && !all_ended()
                               ? fmt::format("; the others have {:g} s to end by themselves",
                                             std::chrono::duration<double>(grace_).count())
                               : ""));
    hurry();
  }
}

void Supervisor::handle_signal(int signal) {
  if (signal == SIGCHLD) return collect();
  const bool again = end_.interrupted;
  end_.interrupted = true;
  end_.exit_code = 128 + signal;
  send(again ? SIGKILL : signal);
  hurry();
}

void Supervisor::handle_deadlines() {
  const auto now = Clock::now();
  if (limit_ && now >= *limit_) {
    limit_.reset();
    if (end_.exit_code == 0) end_.exit_code = limit_passed;
    note(fmt::format("the job did not end within {:g} s", std::chrono::duration<double>(job_.limit).count()));
    deadline_ = now;
  }
  if (!deadline_ || now < *deadline_ || all_ended()) return;
  sent_ = sent_ == 0 ? SIGTERM : SIGKILL;
  note(sent_ == SIGTERM ? "ending the other ranks" : "killing the other ranks");
  send(sent_);
  deadline_ = now + std::min<milliseconds>(grace_, milliseconds(3000));
}

void Supervisor::send(int signal) const {
  for (const Process& process : processes_)
    if (!process.ended) kill(-process.pid, signal);
}

/// Reaps the ranks, ends what they left running in their groups, and passes on the rest of their output.
void Supervisor::clean_up() {
  for (Process& process : processes_) {
    if (!process.ended) kill(-process.pid, SIGKILL);
    waitpid(process.pid, nullptr, 0);
  }
  const auto gone = [](const Process& p) { return kill(-p.pid, 0) != 0; };
  // A helper may have tidying to do; it has two seconds for it.
  for (const int signal : {0, SIGTERM, SIGKILL}) {
    if (signal != 0)
      for (const Process& process : processes_) kill(-process.pid, signal);
    for (int i = 0; i < 100; ++i) {
      while (waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      if (std::all_of(processes_.begin(), processes_.end(), gone)) break;
      std::this_thread::sleep_for(milliseconds(signal == 0 ? 2 : 10));
    }
  }
  processes_.clear();
  lines_.forward();
  lines_.finish();
}

}  // namespace

std::string to_string(const RankEnd& end) {
  if (end.signal != 0)
    return fmt::format("rank {} was killed by signal {} ({})", end.rank, end.signal, strsignal(end.signal));
  return fmt::format("rank {} exited with code {}", end.rank, end.code);
}

JobEnd run_job(const Job& job) {
  Supervisor supervisor(job);
  supervisor.start();
  return supervisor.supervise();
}

}  // namespace mixcomm::tools
