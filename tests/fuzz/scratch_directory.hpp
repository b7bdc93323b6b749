// A directory for the files of one input after the other.
#pragma once

#include <filesystem>
#include <string_view>

namespace mixcomm::fuzz {

/// Made under TMPDIR; removed when the process ends of itself. (Where it crashes, whoever chose TMPDIR
/// removes it: scripts/fuzz does.)
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Replaces a file.
  void write(const char* name, std::string_view content) const;

 private:
  std::filesystem::path path_;
};

}  // namespace mixcomm::fuzz
