// Word problems with answers in GSM8K's form.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace mixcomm::tools {

struct Problem {
  std::size_t line = 0;  ///< in its file, from 1
  std::string question;
  std::string answer;    ///< as the file has it
  std::string expected;  ///< its number, as plain_number() writes it
};

/// A line that is no problem, or a problem that cannot be put to the model.
struct LeftOut {
  std::size_t line = 0;
  std::string why;  ///< "has the answer ..."
};

struct Problems {
  std::vector<Problem> problems;
  std::vector<LeftOut> left_out;
};

/// Reads a file with an object {"question": ..., "answer": ...} in each line (blank ones are passed over),
/// `limit` of them at most behind the first `shown` problems. The number of an answer is what stands behind
/// its last "####", or the answer itself where it has none, or is a JSON number; where that is no
/// plain_number(), or a line is no such object, the line is left out. Throws InvalidArgument naming the file
/// for one that cannot be read or has no problem, and the first line that was left out.
[[nodiscard]] Problems read_problems(const std::filesystem::path& file, std::size_t limit,
                                     std::size_t shown = 0);

}  // namespace mixcomm::tools
