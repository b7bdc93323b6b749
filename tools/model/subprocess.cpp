#include "tools/model/subprocess.hpp"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "mixcomm/error.hpp"
#include "mixcomm/fd.hpp"

namespace mixcomm::tools {
namespace {

[[noreturn]] void fail(std::string_view what, int error) {
  throw SystemError(fmt::format("{}: {}", what, std::strerror(error)));
}

Fd memory_file() {
  Fd file(memfd_create("mixcomm-subprocess", MFD_CLOEXEC));
  if (!file.valid()) fail("cannot make a file in memory (memfd_create)", errno);
  return file;
}

void write_all(const Fd& file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(file.get(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot write to a file in memory", errno);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  if (lseek(file.get(), 0, SEEK_SET) < 0) fail("cannot rewind a file in memory", errno);
}

std::string read_all(const Fd& file) {
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t got = pread(file.get(), buffer, sizeof buffer, static_cast<off_t>(text.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("cannot read a file in memory", errno);
    if (got == 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

/// Where the started program's stdin, stdout and stderr come from and go to.
class FileActions {
 public:
  FileActions() { posix_spawn_file_actions_init(&actions_); }
  ~FileActions() { posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
  void connect(const Fd& from, int to) { posix_spawn_file_actions_adddup2(&actions_, from.get(), to); }
  [[nodiscard]] const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

}  // namespace

Finished run_program(const std::vector<std::string>& words, std::string_view input) {
  const Fd in = memory_file();
  const Fd out = memory_file();
  const Fd err = memory_file();
  write_all(in, input);
  FileActions actions;
  actions.connect(in, STDIN_FILENO);
  actions.connect(out, STDOUT_FILENO);
  actions.connect(err, STDERR_FILENO);

  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int error = posix_spawnp(&child, arguments[0], actions.get(), nullptr, arguments.data(), environ);
  if (error != 0) fail(fmt::format("cannot start '{}'", words[0]), error);
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) fail(fmt::format("cannot wait for '{}'", words[0]), errno);
  const int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return {code, read_all(out), read_all(err)};
}

}  // namespace mixcomm::tools
