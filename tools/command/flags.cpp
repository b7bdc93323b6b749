#include "tools/command/flags.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <utility>

#include "measure/split.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::tools {
namespace {

/// The parser would read 010 as 8, 0x10 as 16, and take nan, which is neither above nor below anything, for
/// within every range.
template <class T>
T decimal(const std::string& text, T least, T most) {
  const std::size_t sign = text.size() > 1 && text[0] == '+' && text[1] != '-' ? 1 : 0;
  T value{};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + sign, end, value);
  if (text.empty()) throw InvalidArgument("a number is missing");
  if (error == std::errc::invalid_argument || rest != end)
    throw InvalidArgument(fmt::format("'{}' is no decimal number", text));
  if (error != std::errc() || !(value >= least && value <= most))
    throw InvalidArgument(fmt::format("{} is not from {} to {}", text, least, most));
  return value;
}

void not_empty(const std::string& text) {
  if (text.empty()) throw InvalidArgument("the value is empty; give one, or leave the flag out");
}

std::string range_of(Integers in) {
  return fmt::format("N ({} to {})", in.least, in.most);
}

/// "--ranks" of "-n,--ranks".
std::string long_name(const std::string& names) {
  for (const std::string& name : split(names))
    if (name.starts_with("--")) return name;
  return names;
}

/// Added with what reads the values that were given.
template <class Read>
CLI::Option* add(CLI::App& app, const std::string& names, const std::string& form, const std::string& help,
                 Read read) {
  const auto parse = [name = long_name(names), read = std::move(read)](const CLI::results_t& values) {
    try {
      read(values);
    } catch (const InvalidArgument& error) {
      throw CLI::ValidationError(name, error.what());
    }
    return true;
  };
  return app.add_option(names, parse, help)->type_name(form);
}

/// What stands between commas in all values.
template <class Take>
void split_values(const CLI::results_t& values, Take take) {
  for (const std::string& value : values)
    for (const std::string& part : split(value)) {
      if (part.empty()) throw InvalidArgument(fmt::format("'{}' has nothing on one side of a comma", value));
      take(part);
    }
}

template <class T>
CLI::Option* add_number(CLI::App& app, const std::string& names, T& value, Integers in,
                        const std::string& help) {
  return add(app, names, range_of(in), help, [&value, in](const CLI::results_t& values) {
    value = static_cast<T>(decimal(values.back(), in.least, in.most));
  });
}

template <class T>
CLI::Option* add_numbers(CLI::App& app, const std::string& names, std::vector<T>& numbers, Integers in,
                         const std::string& help) {
  const auto read = [&numbers, in](const CLI::results_t& values) {
    numbers.clear();
    split_values(values, [&](const std::string& part) {
      numbers.push_back(static_cast<T>(decimal(part, in.least, in.most)));
    });
  };
  return add(app, names, fmt::format("N,... ({} to {})", in.least, in.most), help, read)->expected(1, -1);
}

template <class T>
CLI::Option* add_named(CLI::App& app, const std::string& names, T& value, const std::string& form,
                       const std::string& help) {
  return add(app, names, form, help, [&value](const CLI::results_t& values) {
    not_empty(values.back());
    value = values.back();
  });
}

}  // namespace

Flag Flag::excludes(const Flag& other) const {
  return Flag(option_->excludes(other.option_));
}
Flag Flag::needs(const Flag& other) const {
  return Flag(option_->needs(other.option_));
}
Flag Flag::required() const {
  return Flag(option_->required());
}
Flag Flag::or_from(const std::string& variable) const {
  return Flag(option_->envname(variable));
}
bool Flag::given() const {
  return option_->count() > 0;
}

Flags::Flags(CLI::App& app, const std::string& name, const std::string& what, const std::string& examples)
    : sub_(app.add_subcommand(name, what)) {
  sub_->footer(examples);
}

Flag Flags::yes(const std::string& names, bool& value, const std::string& help) {
  return Flag(sub_->add_flag(names, value, help));
}

Flag Flags::number(const std::string& names, int& value, Integers in, const std::string& help) {
  return Flag(add_number(*sub_, names, value, in, help));
}
Flag Flags::number(const std::string& names, std::size_t& value, Integers in, const std::string& help) {
  return Flag(add_number(*sub_, names, value, in, help));
}

Flag Flags::seconds(const std::string& names, double& value, Reals in, const std::string& help) {
  return real(names, value, "SECONDS", in, help);
}

Flag Flags::real(const std::string& names, double& value, const std::string& form, Reals in,
                 const std::string& help) {
  return Flag(
      add(*sub_, names, fmt::format("{} ({} to {})", form, in.least, in.most), help,
          [&value, in](const CLI::results_t& values) { value = decimal(values.back(), in.least, in.most); }));
}

Flag Flags::numbers(const std::string& names, std::vector<int>& values, Integers in,
                    const std::string& help) {
  return Flag(add_numbers(*sub_, names, values, in, help));
}
Flag Flags::numbers(const std::string& names, std::vector<std::size_t>& values, Integers in,
                    const std::string& help) {
  return Flag(add_numbers(*sub_, names, values, in, help));
}

Flag Flags::list(const std::string& names, std::vector<std::string>& values, const std::string& form,
                 const std::string& help) {
  const auto read = [&values](const CLI::results_t& given) {
    values.clear();
    split_values(given, [&values](const std::string& part) { values.push_back(part); });
  };
  return Flag(add(*sub_, names, form, help, read)->expected(1, -1));
}

Flag Flags::text(const std::string& names, std::string& value, const std::string& help) {
  return Flag(sub_->add_option(names, value, help)->type_name("TEXT"));
}

Flag Flags::texts(const std::string& names, std::vector<std::string>& values, const std::string& form,
                  const std::string& help) {
  return Flag(sub_->add_option(names, values, help)
                  ->type_name(form)
                  ->expected(1)
                  ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll));
}

Flag Flags::name(const std::string& names, std::string& value, const std::string& form,
                 const std::string& help) {
  return Flag(add_named(*sub_, names, value, form, help));
}
Flag Flags::file(const std::string& names, std::string& value, const std::string& help) {
  return Flag(add_named(*sub_, names, value, "FILE", help));
}
Flag Flags::file(const std::string& names, std::filesystem::path& value, const std::string& help) {
  return Flag(add_named(*sub_, names, value, "FILE", help));
}
Flag Flags::directory(const std::string& names, std::filesystem::path& value, const std::string& help) {
  return Flag(add_named(*sub_, names, value, "DIR", help));
}

Flag Flags::value(const std::string& names, const std::string& form, const std::string& help,
                  std::function<void(const std::string&)> read) {
  return Flag(add(*sub_, names, form, help,
                  [read = std::move(read)](const CLI::results_t& values) { read(values.back()); }));
}

Flag Flags::words(const std::string& names, std::vector<std::string>& values, const std::string& form,
                  const std::string& help) {
  return Flag(sub_->add_option(names, values, help)->type_name(form)->required());
}

void Flags::then(std::function<void()> action) {
  sub_->callback(std::move(action));
}

}  // namespace mixcomm::tools
