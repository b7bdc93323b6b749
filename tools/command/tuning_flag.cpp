#include "tools/command/tuning_flag.hpp"

#include "runner/git_lfs.hpp"

namespace mixcomm::tools {

void add_tuning_flag(Flags& flags, std::string& path) {
  flags.file("--tuning", path, "Choose algorithms by this table, which 'mixcomm tune' made")
      .or_from("MIXCOMM_TUNING");
}

std::optional<TuningTable> tuning_table(const std::string& path) {
  if (path.empty()) return std::nullopt;
  runner::refuse_lfs_pointer(std::filesystem::path(path));
  return TuningTable::load(path);
}

}  // namespace mixcomm::tools
