// --tuning: with which table algorithms are chosen.
#pragma once

#include <optional>
#include <string>

#include "mixcomm/tuning.hpp"
#include "tools/command/command.hpp"

namespace mixcomm::tools {

/// --tuning FILE, or MIXCOMM_TUNING.
void add_tuning_flag(Flags& flags, std::string& path);

/// The table in that file; none for an empty path. Throws what TuningTable::load() does.
[[nodiscard]] std::optional<TuningTable> tuning_table(const std::string& path);

}  // namespace mixcomm::tools
