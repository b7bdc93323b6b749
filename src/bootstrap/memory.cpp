#include "bootstrap/memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "mixcomm/error.hpp"

namespace mixcomm {

std::shared_ptr<std::byte> map_shared(std::size_t bytes, int fd) {
  const int flags = MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (data == MAP_FAILED)
    throw SystemError(
        fmt::format("cannot map {} bytes of shared memory: {}; ask for less, or raise the memory limit",
                    bytes, std::strerror(errno)));
  return {static_cast<std::byte*>(data), [bytes](std::byte* p) { munmap(p, bytes); }};
}

void give_back(std::byte* data, std::size_t bytes) {
  if (madvise(data, bytes, MADV_REMOVE) != 0)
    throw SystemError(
        fmt::format("cannot give back {} bytes of shared memory: {}; close the communicator instead", bytes,
                    std::strerror(errno)));
}

void check_same_size(const std::vector<std::string>& bytes_by_rank) {
  for (std::size_t r = 1; r < bytes_by_rank.size(); ++r)
    if (bytes_by_rank[r] != bytes_by_rank[0])
      throw Disagreement(
          fmt::format("rank {} shares {} bytes, but rank 0 {}; all ranks must ask for the same", r,
                      bytes_by_rank[r], bytes_by_rank[0]));
}

}  // namespace mixcomm
