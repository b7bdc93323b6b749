// `mixcomm check --plan`: is every collective the right one?
#pragma once

#include <string>

#include "tools/options.hpp"

namespace mixcomm::tools {

struct CheckPlanOptions {
  int symbolic_ranks = 16;  ///< checked in integers up to so many ranks
  int real_ranks = 8;       ///< run on the CPU backend up to so many
  bool quick = false;       ///< some of the models alone
  std::string json_path;
  RankFlags ranks;
};

/// Prints what was checked; the exit code.
[[nodiscard]] int check_plan(const CheckPlanOptions& options, const std::string& command_line);

}  // namespace mixcomm::tools
