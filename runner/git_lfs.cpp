#include "runner/git_lfs.hpp"

#include <fmt/format.h>

#include <fstream>
#include <string>
#include <system_error>

#include "mixcomm/error.hpp"

namespace mixcomm::runner {

void refuse_lfs_pointer(std::string_view file, std::string_view text) {
  constexpr std::string_view beginning = "version https://git-lfs.github.com/spec/";
  if (!text.starts_with(beginning)) return;
  constexpr std::string_view mark = "\nsize ";
  const std::size_t at = text.find(mark);
  std::string size;
  for (std::size_t i = at + mark.size(); at != std::string_view::npos && i < text.size(); ++i) {
    if (text[i] < '0' || text[i] > '9') break;
    size += text[i];
  }
  throw InvalidArgument(fmt::format(
      "{}: is a Git LFS pointer, not the file itself{}; fetch that with 'git lfs pull' where it was cloned",
      file, size.empty() ? "" : fmt::format(" (of {} bytes)", size)));
}

void refuse_lfs_pointer(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored)) return;  // a pipe's beginning can be read only once
  constexpr std::size_t longest = 1024;
  std::string text(longest, '\0');
  std::ifstream in(file, std::ios::binary);
  in.read(text.data(), longest);
  text.resize(static_cast<std::size_t>(in.gcount()));
  refuse_lfs_pointer(file.string(), text);
}

}  // namespace mixcomm::runner
