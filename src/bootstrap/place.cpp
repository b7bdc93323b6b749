#include "bootstrap/place.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <string_view>

#include "bootstrap/system_call.hpp"
#include "mixcomm/fd.hpp"

namespace mixcomm {
namespace {

/// "" where the system does not tell. That it cannot be read now is another thing: then the host is not
/// known.
std::string boot_identity() {
  constexpr const char* path = "/proc/sys/kernel/random/boot_id";
  const Fd file(open(path, O_RDONLY | O_CLOEXEC));
  if (!file.valid()) {
    if (is_shortage(errno)) throw_failed("cannot find out which host this is", fmt::format("open {}", path));
    return "";
  }
  char text[64] = {};
  const ssize_t size = read(file.get(), text, sizeof(text));
  const std::string_view read_text(text, size > 0 ? static_cast<std::size_t>(size) : 0);
  return std::string(read_text.substr(0, read_text.find('\n')));
}

/// What NCCL tells hosts apart by, if it is set. It can divide a host in two here, and not join two: memory of
/// another one is out of reach.
std::string nccl_host() {
  const char* set = std::getenv("NCCL_HOSTID");
  return set == nullptr || *set == '\0' ? std::string() : fmt::format(" NCCL_HOSTID={}", set);
}

}  // namespace

std::string host_identity() {
  const std::string boot = boot_identity();
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  return fmt::format("{} {}{}", boot, host, nccl_host());
}

std::string process_identity() {
  // A process number counts within its namespace, of which one host may have several.
  struct stat space {};
  const bool known = stat("/proc/self/ns/pid", &space) == 0;
  static const char this_copy = 0;
  return fmt::format("{} {}:{} {} {}", host_identity(), known ? space.st_dev : 0, known ? space.st_ino : 0,
                     getpid(), static_cast<const void*>(&this_copy));
}

}  // namespace mixcomm
