// mixcomm-demo: `mixcomm demo` by itself, for whoever has just cloned this and wants to see it.
#include <array>

#include "tools/command/command.hpp"

namespace mixcomm::tools {

Program program() {
  static constexpr std::array<AddSubcommand, 1> all = {add_demo};
  return {.name = "mixcomm-demo",
          .description = "'mixcomm demo' by itself, which is built before the rest of the command.",
          .footer =
              "Examples:\n  mixcomm-demo demo\n\n'make build' builds the whole command, build/tools/mixcomm.",
          .subcommands = all};
}

}  // namespace mixcomm::tools
