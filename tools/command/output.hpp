// What the command writes besides stdout: JSON files, and progress on stderr.
#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "tools/command/command.hpp"

namespace mixcomm::tools {

/// A JSON file that is opened before the work begins, so that a wrong path is found at once. Nothing is
/// opened for an empty path. Destroyed without write(), it leaves no new file behind.
class JsonFile {
 public:
  /// Throws SystemError.
  explicit JsonFile(std::filesystem::path path);
  ~JsonFile();
  JsonFile(const JsonFile&) = delete;
  JsonFile& operator=(const JsonFile&) = delete;

  /// Throws SystemError. Does nothing for an empty path.
  void write(const Json& json);

 private:
  std::filesystem::path path_;
  bool is_new_ = false;
};

/// As text, indented; bytes that are no UTF-8 become U+FFFD.
[[nodiscard]] std::string dump(const Json& json);

/// "bench: 3 of 40, ..." on stderr: in place on a terminal, elsewhere a line every few seconds.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::size_t done, std::size_t total, std::string_view more = "");

 private:
  void wipe();

  using Clock = std::chrono::steady_clock;
  std::string what_;
  bool terminal_;
  std::size_t shown_ = 0;  ///< columns to wipe
  Clock::time_point last_;
};

}  // namespace mixcomm::tools
