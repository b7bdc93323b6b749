#include "fuzz/scratch_directory.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <system_error>

#include "fuzz/target.hpp"
#include "mixcomm/fd.hpp"

namespace mixcomm::fuzz {

ScratchDirectory::ScratchDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "mixcomm-fuzz-XXXXXX").string();
  require(mkdtemp(name.data()) != nullptr, "a temporary directory can be made");
  path_ = name;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void ScratchDirectory::write(const char* name, std::string_view content) const {
  const Fd file(open((path_ / name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  require(file.valid() &&
              ::write(file.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size()),
          "a temporary file can be written");
}

}  // namespace mixcomm::fuzz
