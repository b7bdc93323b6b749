#include "runner/mapped_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "mixcomm/error.hpp"
#include "runner/git_lfs.hpp"

namespace mixcomm::runner {
namespace {

std::string reason(int error) {
  return std::generic_category().message(error);
}

struct Descriptor {
  int value = -1;
  explicit Descriptor(int descriptor) : value(descriptor) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : MappedFile() {
  path_ = path.string();
  // O_NONBLOCK: opening a FIFO that was put in a file's place must not wait for its writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.value < 0) {
    const int error = errno;
    const std::string message = fmt::format("{}: cannot be opened: {}", path_, reason(error));
    if (error == EMFILE || error == ENFILE || error == ENOMEM) throw SystemError(message);
    throw InvalidArgument(message);
  }
  struct stat status {};
  if (::fstat(file.value, &status) != 0) {
    throw SystemError(fmt::format("{}: cannot be examined: {}", path_, reason(errno)));
  }
  if (!S_ISREG(status.st_mode)) throw InvalidArgument(fmt::format("{}: is not a regular file", path_));
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return;  // there is no mapping of nothing
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value, 0);
  if (address == MAP_FAILED) {
    throw SystemError(fmt::format("{}: its {} bytes cannot be mapped: {}", path_, size, reason(errno)));
  }
  bytes_ = {static_cast<const std::byte*>(address), size};
  refuse_lfs_pointer(path_, text());
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace mixcomm::runner
