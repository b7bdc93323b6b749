#include "bootstrap/memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
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
  // Pages may be larger than those that memory is divided by: what is left at the ends is zeroed alone.
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t head = std::min((page - reinterpret_cast<std::uintptr_t>(data) % page) % page, bytes);
  const std::size_t whole = (bytes - head) / page * page;
  std::memset(data, 0, head);
  std::memset(data + head + whole, 0, bytes - head - whole);
  if (whole > 0 && madvise(data + head, whole, MADV_REMOVE) != 0)
    throw SystemError(
        fmt::format("cannot give back {} bytes of shared memory: {}; close the communicator instead", whole,
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
