#include "tools/model/problems.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mixcomm/error.hpp"
#include "runner/git_lfs.hpp"
#include "runner/utf8.hpp"
#include "tools/model/plain_number.hpp"

namespace mixcomm::tools {
namespace {

using nlohmann::json;

/// The answer, and what of it should be a number.
std::pair<std::string, std::string> answer_of(const json& field) {
  if (field.is_number()) return {field.dump(), field.dump()};
  auto text = field.get<std::string>();
  constexpr std::string_view mark = "####";
  const std::size_t at = text.rfind(mark);
  std::string number = at == std::string::npos ? text : text.substr(at + mark.size());
  return {std::move(text), std::move(number)};
}

/// The last part of a long text, for a message.
std::string shortened(const std::string& text) {
  constexpr std::size_t most = 40;
  return text.size() <= most ? runner::in_quotes(text)
                             : "..." + runner::in_quotes(text.substr(text.size() - most));
}

Problem read_problem(const std::string& text, std::size_t line) {
  const json object = json::parse(text, nullptr, false);
  if (object.is_discarded()) throw InvalidArgument("is no JSON");
  if (!object.is_object()) throw InvalidArgument("is no JSON object");
  const auto question = object.find("question");
  if (question == object.end() || !question->is_string())
    throw InvalidArgument("has no text named \"question\"");
  const auto field = object.find("answer");
  if (field == object.end() || !(field->is_string() || field->is_number()))
    throw InvalidArgument("has no text and no number named \"answer\"");
  auto [answer, number] = answer_of(*field);
  const auto expected = plain_number(number);
  if (!expected)
    throw InvalidArgument(
        fmt::format("has the answer {}, which is no plain number like 6, -6 or 1,234.50", shortened(number)));
  return {line, question->get<std::string>(), std::move(answer), *expected};
}

}  // namespace

Problems read_problems(const std::filesystem::path& path, std::size_t limit, std::size_t shown) {
  runner::refuse_lfs_pointer(path);
  std::ifstream file(path);
  if (!file) throw InvalidArgument(fmt::format("cannot read {}: {}", path.string(), std::strerror(errno)));
  Problems read;
  std::string text;
  std::size_t asked = 0;
  for (std::size_t line = 1; asked < limit && std::getline(file, text); ++line) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (read.problems.size() >= shown) ++asked;
    try {
      read.problems.push_back(read_problem(text, line));
    } catch (const InvalidArgument& error) {
      read.left_out.push_back({line, error.what()});
    }
  }
  if (file.bad())
    throw InvalidArgument(fmt::format("cannot read {}: {}", path.string(), std::strerror(errno)));
  if (!read.problems.empty()) return read;
  if (read.left_out.empty()) throw InvalidArgument(fmt::format("{} has no problems", path.string()));
  const LeftOut& first = read.left_out.front();
  throw InvalidArgument(fmt::format("{}:{}: the line {}; none of the lines that were read is a problem",
                                    path.string(), first.line, first.why));
}

}  // namespace mixcomm::tools
