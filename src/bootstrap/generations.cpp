#include "bootstrap/generations.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string_view>

namespace mixcomm {
namespace {

constexpr int most_generations = 64;

std::string contents(int process, std::string_view name) {
  std::ifstream file(fmt::format("/proc/{}/{}", process, name), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// 0 for none, or if it is not known.
int parent_of(int process) {
  const std::string line = contents(process, "stat");  // "PID (name) S PARENT ...", with anything in the name
  const std::size_t name_end = line.rfind(')');
  int parent = 0;
  if (name_end != std::string::npos && name_end + 4 < line.size())
    std::from_chars(line.data() + name_end + 4, line.data() + line.size(), parent);
  return parent;
}

bool is_variable(std::string_view text) {
  const std::size_t equals = text.find('=');
  return equals != std::string_view::npos && equals > 0 &&
         std::ranges::all_of(text.substr(0, equals), [](unsigned char c) { return c > ' ' && c < 127; });
}

}  // namespace

Variables variables_in(const std::string& bytes) {
  Variables variables;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\0', at), bytes.size());
    const std::string_view text(bytes.data() + at, end - at);
    if (is_variable(text))
      variables.emplace(text.substr(0, text.find('=')), text.substr(text.find('=') + 1));
    else if (at == 0)
      return {};  // a title lies there
    at = end + 1;
  }
  return variables;
}

Variables variables_of_this_process() {
  Variables variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry)
    if (const std::string_view text(*entry); is_variable(text))
      variables.emplace(text.substr(0, text.find('=')), text.substr(text.find('=') + 1));
  return variables;
}

std::vector<Variables> generations() {
  std::vector<Variables> all{variables_of_this_process()};
  for (int process = getppid(); process > 0 && all.size() < most_generations; process = parent_of(process)) {
    Variables variables = variables_in(contents(process, "environ"));
    if (variables.empty()) break;
    all.push_back(std::move(variables));
  }
  return all;
}

}  // namespace mixcomm
