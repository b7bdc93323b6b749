// Runs the built `mixcomm` command and keeps what it says.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#define EXPECT_CONTAINS(text, part) \
  EXPECT_NE((text).find(part), std::string::npos) << "'" << (part) << "' is not in: " << (text)

namespace mixcomm::test {

using Words = std::vector<std::string>;
using Environment = std::vector<std::pair<std::string, std::string>>;

inline const std::string command = MIXCOMM_COMMAND;
inline const std::string source = MIXCOMM_SOURCE_DIR;
inline const std::string tiny_model = source + "/models/tiny-qwen3_5-moe";

struct Outcome {
  int code = -1;  ///< 128 + N if killed by signal N
  std::string out;
  std::string err;
};

/// The command with these arguments, started when this is made. What it writes is kept in memory.
class Running {
 public:
  explicit Running(const Words& arguments, const Environment& environment = {},
                   const std::string& input = "") {
    const int in = keep();
    if (write(in, input.data(), input.size()) != static_cast<ssize_t>(input.size())) std::abort();
    lseek(in, 0, SEEK_SET);
    out_ = keep();
    err_ = keep();
    Words words{command};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in, 0);
      dup2(out_, 1);
      dup2(err_, 2);
      if (chdir("/") != 0) _exit(126);  // away from models/, so that no test finds it by chance
      for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
      execv(command.c_str(), pointers.data());
      _exit(127);
    }
    close(in);
  }
  ~Running() {
    if (pid_ > 0) (void)finish(std::chrono::seconds(0));
    close(out_);
    close(err_);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::string out() const { return text(out_); }
  [[nodiscard]] std::string err() const { return text(err_); }

  /// Waits, and kills it when the time is over.
  Outcome finish(std::chrono::seconds limit = std::chrono::seconds(60)) {
    const auto end = std::chrono::steady_clock::now() + limit;
    int status = 0;
    while (waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > end) kill(pid_, SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    pid_ = -1;
    return {WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status), out(), err()};
  }

 private:
  /// Appending, because several processes write to it.
  static int keep() {
    const int fd = memfd_create("output", MFD_CLOEXEC);
    fcntl(fd, F_SETFL, O_APPEND);
    return fd;
  }
  /// Without moving the offset, which the command shares.
  static std::string text(int fd) {
    struct stat about {};
    fstat(fd, &about);
    std::string all(static_cast<std::size_t>(about.st_size), '\0');
    all.resize(static_cast<std::size_t>(pread(fd, all.data(), all.size(), 0)));
    return all;
  }

  pid_t pid_ = -1;
  int out_ = -1;
  int err_ = -1;
};

inline Outcome run(const Words& arguments, const Environment& environment = {},
                   const std::string& input = "") {
  return Running(arguments, environment, input).finish();
}

/// What is wrong with a command, and a part of what it must say.
struct Mistake {
  Words arguments;
  std::string says;
};

/// Each exits with 2, says nothing on stdout, and explains itself on stderr.
inline void expect_explained(const std::vector<Mistake>& mistakes) {
  for (const Mistake& mistake : mistakes) {
    std::string words;
    for (const std::string& word : mistake.arguments) words += " " + word;
    SCOPED_TRACE("mixcomm" + words);
    const Outcome outcome = run(mistake.arguments);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.err.rfind("mixcomm: error: ", 0), 0U) << outcome.err;
    EXPECT_CONTAINS(outcome.err, mistake.says);
  }
}

/// A directory that is gone at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "mixcomm-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  [[nodiscard]] std::string file(const std::string& name) const { return (path_ / name).string(); }
  /// A new file's path.
  [[nodiscard]] std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name) << text;
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// How many processes there are whose command line, with blanks between its words, contains `text`.
inline int processes_with(const std::string& text) {
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::error_code ignored;
    if (!std::filesystem::exists(entry.path() / "cmdline", ignored)) continue;
    std::string words = read_text(entry.path() / "cmdline");
    std::replace(words.begin(), words.end(), '\0', ' ');
    found += words.find(text) != std::string::npos ? 1 : 0;
  }
  return found;
}

}  // namespace mixcomm::test
