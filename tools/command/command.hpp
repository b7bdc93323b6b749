// What a subcommand is: a function that adds its flags to the command line and says what to do if it is the
// one.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "measure/json.hpp"
#include "tools/command/flags.hpp"

namespace mixcomm::tools {

inline constexpr int all_well = 0;
inline constexpr int check_failed = 1;
inline constexpr int bad_input = 2;

/// Carries an exit code out of the depth when all that is to be said has been said (a rank was interrupted).
struct ExitNow {
  int code;
};

/// The command as it was called.
struct Invocation {
  std::string command_line;     ///< for a shell
  std::function<int()> action;  ///< what the subcommand that was named does; returns the exit code
};

using AddSubcommand = void (*)(CLI::App& app, Invocation& invocation);
/// What main() is the main function of: `mixcomm`, or `mixcomm-demo`, which has one subcommand.
struct Program {
  const char* name;
  const char* description;
  const char* footer;                          ///< of its help
  std::span<const AddSubcommand> subcommands;  ///< in the order of its help
};
[[nodiscard]] Program program();

void add_info(CLI::App& app, Invocation& invocation);
void add_run(CLI::App& app, Invocation& invocation);
void add_check(CLI::App& app, Invocation& invocation);
void add_bench(CLI::App& app, Invocation& invocation);
void add_tune(CLI::App& app, Invocation& invocation);
void add_plan(CLI::App& app, Invocation& invocation);
void add_decode(CLI::App& app, Invocation& invocation);
void add_eval(CLI::App& app, Invocation& invocation);
void add_demo(CLI::App& app, Invocation& invocation);

}  // namespace mixcomm::tools
