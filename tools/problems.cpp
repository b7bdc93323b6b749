#include "tools/problems.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mixcomm/error.hpp"

namespace mixcomm::tools {
namespace {

using nlohmann::json;

Problem read_problem(const std::string& text, std::size_t line) {
  const json object = json::parse(text, nullptr, false);
  if (object.is_discarded()) throw InvalidArgument("is no JSON");
  if (!object.is_object()) throw InvalidArgument("is no JSON object");
  const auto field = [&](const char* name) {
    const auto found = object.find(name);
    if (found == object.end() || !found->is_string())
      throw InvalidArgument(fmt::format("has no text named \"{}\"", name));
    return found->get<std::string>();
  };
  const auto expected = final_number(field("answer"));
  if (!expected) throw InvalidArgument("has an answer without a number behind \"#### \"");
  return {line, field("question"), *expected};
}

}  // namespace

std::vector<Problem> read_problems(const std::filesystem::path& path, std::size_t limit) {
  std::ifstream file(path);
  if (!file) throw InvalidArgument(fmt::format("cannot read {}: {}", path.string(), std::strerror(errno)));
  std::vector<Problem> problems;
  std::string text;
  for (std::size_t line = 1; problems.size() < limit && std::getline(file, text); ++line) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      problems.push_back(read_problem(text, line));
    } catch (const InvalidArgument& error) {
      throw InvalidArgument(fmt::format("{}:{}: the line {}", path.string(), line, error.what()));
    }
  }
  if (file.bad())
    throw InvalidArgument(fmt::format("cannot read {}: {}", path.string(), std::strerror(errno)));
  if (problems.empty()) throw InvalidArgument(fmt::format("{} has no problems", path.string()));
  return problems;
}

std::optional<std::string> final_number(std::string_view text) {
  constexpr std::string_view mark = "#### ";
  const std::size_t at = text.rfind(mark);
  if (at == std::string_view::npos) return std::nullopt;
  std::string number;
  for (const char c : text.substr(at + mark.size())) {
    if (c == ',' || c == '$') continue;
    const bool sign = c == '-' && number.empty();
    if (!sign && c != '.' && (c < '0' || c > '9')) break;
    number += c;
  }
  while (!number.empty() && number.back() == '.') number.pop_back();
  if (number.find_first_of("0123456789") == std::string::npos) return std::nullopt;
  return number;
}

}  // namespace mixcomm::tools
