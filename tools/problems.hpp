// Word problems with answers in GSM8K's form.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mixcomm::tools {

struct Problem {
  std::size_t line = 0;  ///< in its file, from 1
  std::string question;
  std::string expected;  ///< the number of the answer
};

/// Reads a file with an object {"question": ..., "answer": ...} in each line (blank ones are passed over),
/// `limit` of them at most. Throws InvalidArgument naming file and line.
[[nodiscard]] std::vector<Problem> read_problems(const std::filesystem::path& file, std::size_t limit);

/// The number behind the last "#### " of a text, without commas, a dollar sign and a full stop; nothing
/// without one.
[[nodiscard]] std::optional<std::string> final_number(std::string_view text);

}  // namespace mixcomm::tools
