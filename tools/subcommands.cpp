// What the `mixcomm` command can do.
#include <array>

#include "tools/command/command.hpp"

namespace mixcomm::tools {

Program program() {
  /// One line per subcommand.
  static constexpr std::array<AddSubcommand, 9> all = {
      add_info, add_run, add_check, add_bench, add_tune, add_plan, add_decode, add_eval, add_demo,
  };
  return {.name = "mixcomm",
          .description =
              "Collectives for attention with tensor parallelism (TP) and data parallelism (DP) at once.",
          .footer = R"(Examples:
  mixcomm info
  mixcomm check --tp 2 --dp 2
  mixcomm bench --op all_reduce_all_gather --tp 2 --dp 1 --rows 1,4,16
  mixcomm plan --attn-tp 2 --attn-dp 2 --rows 4
  mixcomm run -n 4 -- mixcomm check --tp 2 --dp 2

Exit code: 0 all is well, 1 a check failed, 2 bad input or a failure of set-up.
'mixcomm COMMAND --help' tells more.)",
          .subcommands = all};
}

}  // namespace mixcomm::tools
