// A file's bytes without a copy of them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace mixcomm::runner {

/// A regular file, mapped read-only as a whole. The file must not be shortened by others while this lives.
class MappedFile {
 public:
  /// Throws InvalidArgument, naming the file, where it is missing, unreadable, not a regular file or a Git
  /// LFS pointer to another, SystemError where the system cannot map it.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  MappedFile() = default;  // the constructor with a path delegates to it, so that a throw there unmaps

  std::string path_;
  std::span<const std::byte> bytes_;
};

}  // namespace mixcomm::runner
