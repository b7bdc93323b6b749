// Another program, run to its end.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mixcomm::tools {

struct Finished {
  int code = 0;  ///< exit code; 128 + N if signal N killed it
  std::string out;
  std::string err;
};

/// Starts words[0], looked for on PATH, with `input` on its stdin, and waits for its end. What it reads and
/// writes lies in memory, so that neither waits for the other. Throws SystemError, naming the program, where
/// it cannot be started.
[[nodiscard]] Finished run_program(const std::vector<std::string>& words, std::string_view input);

}  // namespace mixcomm::tools
