#include "tools/tuning_flag.hpp"

namespace mixcomm::tools {

void add_tuning_flag(CLI::App& app, std::string& path) {
  app.add_option("--tuning", path, "Choose algorithms by this table, which 'mixcomm tune' made")
      ->type_name("FILE")
      ->envname("MIXCOMM_TUNING");
}

std::optional<TuningTable> tuning_table(const std::string& path) {
  if (path.empty()) return std::nullopt;
  return TuningTable::load(path);
}

}  // namespace mixcomm::tools
