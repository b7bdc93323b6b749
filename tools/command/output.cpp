#include "tools/command/output.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#include "mixcomm/error.hpp"

namespace mixcomm::tools {

JsonFile::JsonFile(std::filesystem::path path) : path_(std::move(path)) {
  if (path_.empty()) return;
  std::error_code ignored;
  is_new_ = !std::filesystem::exists(path_, ignored);
  if (!std::ofstream(path_, std::ios::app))
    throw SystemError(fmt::format("cannot write to {}: {}", path_.string(), std::strerror(errno)));
}

JsonFile::~JsonFile() {
  std::error_code ignored;
  if (is_new_) std::filesystem::remove(path_, ignored);
}

void JsonFile::write(const Json& json) {
  if (path_.empty()) return;
  std::ofstream file(path_, std::ios::trunc);
  file << dump(json) << '\n';
  file.close();
  if (!file) throw SystemError(fmt::format("cannot write to {}: {}", path_.string(), std::strerror(errno)));
  is_new_ = false;
}

std::string dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

Progress::Progress(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1), last_(Clock::now()) {}

Progress::~Progress() {
  wipe();
}

void Progress::wipe() {
  if (shown_ > 0) fmt::print(stderr, "\r{:{}}\r", "", shown_);
  shown_ = 0;
}

void Progress::update(std::size_t done, std::size_t total, std::string_view more) {
  if (done == total) return wipe();
  const auto pause = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000);
  const auto now = Clock::now();
  if (now - last_ < pause) return;
  last_ = now;
  const std::string text =
      fmt::format("{}: {} of {}{}{}", what_, done, total, more.empty() ? "" : ", ", more);
  if (terminal_) {
    fmt::print(stderr, "\r{:{}}", text, shown_);
    shown_ = text.size();
  } else {
    fmt::print(stderr, "{}\n", text);
  }
  std::fflush(stderr);
}

}  // namespace mixcomm::tools
