#include "bootstrap/system_call.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

int most_descriptors() {
  constexpr rlim_t most = 1 << 30;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  return static_cast<int>(std::min(limit.rlim_cur, most));
}

}  // namespace

bool is_shortage(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

bool is_forbidden(int error) {
  return error == EPERM || error == EACCES || error == ENOSYS;
}

std::string failure_of(std::string_view call, int error) {
  std::string text = fmt::format("{}: {}", call, std::strerror(error));
  if (is_forbidden(error))
    text += "; a seccomp filter, as containers have one, may forbid this call: allow it";
  switch (error) {
    case EMFILE:
      text += fmt::format("; this process may have {} (ulimit -n): raise that", most_descriptors());
      break;
    case ENFILE:
      text += "; all processes of this system together have too many (sysctl fs.file-max)";
      break;
    default:
      break;
  }
  return text;
}

void throw_failed(std::string_view what, std::string_view call) {
  throw SystemError(fmt::format("{}: {}", what, failure_of(call, errno)));
}

int descriptors_left(int enough) {
  int left = 0;
  for (int fd = most_descriptors() - 1; fd >= 0 && left < enough; --fd)
    if (fcntl(fd, F_GETFD) < 0) ++left;
  return left;
}

void need_descriptors(int needed, std::string_view what) {
  if (const int left = descriptors_left(needed); left < needed)
    throw SystemError(
        fmt::format("{} takes {} more open files in this process, which may open {} more, of {}: raise that "
                    "limit (ulimit -n)",
                    what, needed, left, most_descriptors()));
}

}  // namespace mixcomm
