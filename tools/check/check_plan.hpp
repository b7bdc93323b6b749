// `mixcomm check --plan`: is every collective the right one?
#pragma once

#include <string>

#include "tools/command/options.hpp"

namespace mixcomm::tools {

struct CheckPlanOptions {
  int symbolic_ranks = 16;  ///< spreads of up to this many ranks are checked in integers
  int real_ranks = 8;       ///< spreads of up to this many ranks run on the CPU backend
  bool quick = false;       ///< some of the models alone
  std::string json_path;
  RankFlags ranks;
};

/// Prints what was checked; the exit code.
[[nodiscard]] int check_plan(const CheckPlanOptions& options, const std::string& command_line);

}  // namespace mixcomm::tools
