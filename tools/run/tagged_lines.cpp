#include "tools/run/tagged_lines.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "bootstrap/system_call.hpp"

namespace mixcomm::tools {
namespace {

constexpr std::size_t longest_line = std::size_t{1} << 20;  // a longer one is cut

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno != EINTR) return;
    if (n > 0) text.remove_prefix(static_cast<std::size_t>(n));
  }
}

}  // namespace

OutputPipes OutputPipes::make() {
  OutputPipes pipes;
  for (int i = 0; i < 2; ++i) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw_failed("cannot make a pipe", "pipe2");
    pipes.read[i] = Fd(ends[0]);
    pipes.write[i] = Fd(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
  }
  return pipes;
}

void OutputPipes::connect() const {
  if (write[0].valid()) dup2(write[0].get(), STDOUT_FILENO);
  if (write[1].valid()) dup2(write[1].get(), STDERR_FILENO);
}

void TaggedLines::add(int rank, OutputPipes pipes) {
  streams_.push_back({rank, STDOUT_FILENO, std::move(pipes.read[0]), ""});
  streams_.push_back({rank, STDERR_FILENO, std::move(pipes.read[1]), ""});
}

void TaggedLines::append_to(std::vector<pollfd>& fds) const {
  for (const Stream& stream : streams_)
    if (stream.from.valid()) fds.push_back({stream.from.get(), POLLIN, 0});
}

void TaggedLines::forward() {
  for (Stream& stream : streams_) {
    char buffer[4096];
    while (stream.from.valid()) {
      const ssize_t n = read(stream.from.get(), buffer, sizeof(buffer));
      if (n < 0 && errno == EINTR) continue;
      if (n == 0) stream.from.reset();
      if (n <= 0) break;
      stream.rest.append(buffer, static_cast<std::size_t>(n));
      std::string lines;
      std::size_t begin = 0;
      for (std::size_t end = 0; (end = stream.rest.find('\n', begin)) != std::string::npos; begin = end + 1)
        lines +=
            fmt::format("[{}] {}\n", stream.rank, std::string_view(stream.rest).substr(begin, end - begin));
      stream.rest.erase(0, begin);
      if (stream.rest.size() > longest_line)
        lines += fmt::format("[{}] {}\n", stream.rank, std::exchange(stream.rest, ""));
      write_all(stream.to, lines);
    }
  }
}

void TaggedLines::finish() {
  for (Stream& stream : streams_)
    if (!stream.rest.empty()) write_all(stream.to, fmt::format("[{}] {}\n", stream.rank, stream.rest));
  streams_.clear();
}

}  // namespace mixcomm::tools
