#include "measure/mpi/job.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "futex.hpp"
#include "measure/split.hpp"

namespace mixcomm::tools::mpi {
namespace {

using Clock = std::chrono::steady_clock;

Fd make_memory(const char* name) {
  Fd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd.valid()) throw SystemError(fmt::format("memfd_create: {}", std::strerror(errno)));
  return fd;
}

bool in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string text = path != nullptr ? path : "/usr/bin:/bin";
  std::replace(text.begin(), text.end(), ':', ',');
  for (const std::string& directory : split(text))
    if (access((std::filesystem::path(directory) / program).c_str(), X_OK) == 0) return true;
  return access(program.c_str(), X_OK) == 0 && program.find('/') != std::string::npos;
}

/// Asks the script whether its package is there.
void check_peer(const Flavour& flavour) {
  if (!in_path(flavour.launcher))
    throw Unsupported(
        fmt::format("--against {}: there is no {}; set MIXCOMM_PEER_PYTHON", flavour.name, flavour.launcher));
  std::string command = flavour.launcher;
  for (const std::string& word : flavour.settings.front().arguments) command += fmt::format(" '{}'", word);
  FILE* said = popen((command + " --probe 2>&1").c_str(), "re");
  if (said == nullptr) throw SystemError(fmt::format("--against {}: {}", flavour.name, std::strerror(errno)));
  std::string text;
  std::array<char, 512> some{};
  for (std::size_t n = 0; (n = fread(some.data(), 1, some.size(), said)) > 0;) text.append(some.data(), n);
  if (pclose(said) == 0) return;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  throw Unsupported(fmt::format("--against {}: {}", flavour.name, text));
}

/// glibc gives large buffers back to the system and takes them anew for each call, whose page faults would be
/// measured; root may start Open MPI's jobs only when told so.
std::vector<std::pair<std::string, std::string>> common_environment() {
  return {{"MALLOC_MMAP_THRESHOLD_", "1073741824"},
          {"MALLOC_TRIM_THRESHOLD_", "4294967296"},
          {"MALLOC_TOP_PAD_", "67108864"},
          {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
          {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};
}

}  // namespace

std::string find_worker(const Flavour& flavour) {
  std::error_code ignored;
  const auto here = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  std::string worker = (here / flavour.worker).string();
  const bool built = access(worker.c_str(), X_OK) == 0;
  if (!flavour.is_mpi) {
    if (!built) throw Unsupported(fmt::format("--against {}: {} was not built", flavour.name, worker));
    check_peer(flavour);
    return worker;
  }
  if (!built || !in_path(flavour.launcher))
    throw Unsupported(fmt::format(
        "--against {}: {}; install {} (scripts/setup --mpi does), and build again", flavour.name,
        built ? fmt::format("there is no {} in PATH", flavour.launcher)
              : fmt::format("{} was not built, because {} was not found", flavour.worker, flavour.name),
        flavour.packages));
  return worker;
}

Job::Job(const Flavour& flavour, const Setting& setting, const JobOptions& options)
    : flavour_(flavour),
      setting_(setting),
      options_(options),
      memory_fd_(make_memory("mixcomm-mpi")),
      output_(make_memory("mixcomm-mpi-output")) {
  const std::string worker = find_worker(flavour_);
  const int world = options.tp * options.dp;
  const std::size_t bytes = sizeof(Control) + Meeting::bytes(world, most_calls);
  void* data = ftruncate(memory_fd_.get(), static_cast<off_t>(bytes)) == 0
                   ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd_.get(), 0)
                   : MAP_FAILED;
  if (data == MAP_FAILED)
    throw SystemError(fmt::format("cannot share {} bytes: {}", bytes, std::strerror(errno)));
  memory_ = {static_cast<std::byte*>(data), [bytes](std::byte* p) { munmap(p, bytes); }};
  control_ = reinterpret_cast<Control*>(data);
  control_->bytes = bytes;
  control_->most_bytes = options.most_bytes;
  control_->tp = options.tp;
  control_->dp = options.dp;
  control_->owner = getpid();
  control_->timeout_ms =
      static_cast<std::int32_t>(std::min<std::int64_t>(options.timeout.count(), INT32_MAX));
  control_->threads = options.threads;
  control_->dtype = options.dtype;
  control_->binds = setting.binds;
  place_ = std::make_unique<Meeting>(std::shared_ptr<std::byte>(memory_, memory_.get() + sizeof(Control)),
                                     Team{0, 1, world, 0}, most_calls, options.timeout);
  start(worker);
}

void Job::start(const std::string& worker) {
  const std::string control = fmt::format("/proc/{}/fd/{}", getpid(), memory_fd_.get());
  std::vector<std::string> words{flavour_.launcher};
  words.insert(words.end(), setting_.arguments.begin(), setting_.arguments.end());
  for (const std::string& word :
       {std::string("-n"), std::to_string(options_.tp * options_.dp), worker, control})
    words.push_back(word);
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  auto environment = common_environment();
  environment.insert(environment.end(), setting_.environment.begin(), setting_.environment.end());
  std::fflush(nullptr);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0)
    throw SystemError(fmt::format("cannot start {}: {}", flavour_.launcher, std::strerror(errno)));
  if (pid_ > 0) return;
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
  const int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, STDIN_FILENO);
  dup2(output_.get(), STDOUT_FILENO);
  dup2(output_.get(), STDERR_FILENO);
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  execvp(pointers[0], pointers.data());
  fmt::print(stderr, "{}: {}\n", words[0], std::strerror(errno));
  std::fflush(stderr);
  _exit(127);
}

Job::~Job() {
  if (control_->owner != getpid()) return;  // a rank's copy
  control_->ends.store(true);
  futex_wake_all(control_->ordered);
  const auto start = Clock::now();
  for (const auto& [signal, after] : {std::pair{0, 0.0}, {SIGTERM, 3.0}, {SIGKILL, 6.0}}) {
    if (signal != 0) kill(-pid_, signal);
    while (std::chrono::duration<double>(Clock::now() - start).count() < after + 3.0) {
      if (waitpid(pid_, nullptr, WNOHANG) != 0) return;  // ended, or reaped elsewhere
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
}

std::string Job::name() const {
  return fmt::format("{} ({})", flavour_.name, setting_.name);
}

void Job::order(const Cell& cell, std::size_t hidden, std::uint32_t calls, bool check) const {
  control_->order = {.op = cell.op, .calls = calls, .hidden = hidden, .rows = {}, .check = check};
  std::copy(cell.rows.begin(), cell.rows.end(), control_->order.rows.begin());
  control_->ordered.fetch_add(1);
  futex_wake_all(control_->ordered);
}

void Job::wait() const {
  const std::uint32_t wanted = control_->ordered.load();
  const auto deadline = Clock::now() + options_.timeout;
  for (;;) {
    const std::uint32_t finished = control_->finished.load();
    if (control_->failed.load()) throw SystemError(fmt::format("{}: {}", name(), control_->failure.data()));
    if (finished == wanted) return;
    if (has_ended()) throw SystemError(fmt::format("{} ended by itself; it said:\n{}", name(), said()));
    if (Clock::now() > deadline)
      throw Timeout(fmt::format("{} did not carry out its calls within {} ms; it said:\n{}", name(),
                                options_.timeout.count(), said()),
                    {});
    futex_wait(control_->finished, finished, std::chrono::milliseconds(200));
  }
}

void Job::collect(Latencies& into) const {
  for (std::uint32_t i = 0; i < control_->order.calls; ++i) {
    float longest = 0;
    for (int r = 0; r < options_.tp * options_.dp; ++r) longest = std::max(longest, place_->latencies(r)[i]);
    into.push_back(static_cast<double>(longest));
  }
}

bool Job::has_ended() const {
  std::ifstream file(fmt::format("/proc/{}/stat", pid_));
  std::string text;
  if (!std::getline(file, text)) return true;
  const std::size_t name_end = text.rfind(')');  // the state is behind the name
  return name_end == std::string::npos || name_end + 2 >= text.size() || text[name_end + 2] == 'Z';
}

std::string Job::said() const {
  constexpr off_t most = 2000;
  const off_t end = lseek(output_.get(), 0, SEEK_END);
  std::string text(static_cast<std::size_t>(std::min(std::max<off_t>(end, 0), most)), '\0');
  const ssize_t n = pread(output_.get(), text.data(), text.size(), std::max<off_t>(end - most, 0));
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
  return text.empty() ? "nothing" : text;
}

}  // namespace mixcomm::tools::mpi
