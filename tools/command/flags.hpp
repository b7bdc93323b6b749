// The flags of a subcommand, and how their values are read: numbers are decimal, nothing that was written is
// passed over, and nothing is empty that names something.
//
// CLI11 reads the command line, and only flags.cpp and main.cpp know it: its header takes seconds to compile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): as the parser has it
class App;
class Option;
}  // namespace CLI

namespace mixcomm::tools {

/// What integers a flag takes, both ends included; reals likewise.
struct Integers {
  std::int64_t least;
  std::int64_t most;
};
struct Reals {
  double least;
  double most;
};

/// A flag that has been added.
class Flag {
 public:
  explicit Flag(CLI::Option* option) : option_(option) {}
  Flag excludes(const Flag& other) const;
  Flag needs(const Flag& other) const;
  Flag required() const;
  /// An environment variable that counts where the flag is not given.
  Flag or_from(const std::string& variable) const;
  /// Known once the command line has been read.
  [[nodiscard]] bool given() const;

 private:
  CLI::Option* option_;
};

/// Of one subcommand. `names` are as the user writes them ("-n,--ranks"); `form` says in --help what a value
/// is. Values that cannot be are refused with the flag's name, and the command ends with 2.
class Flags {
 public:
  /// `examples` goes below the flags in --help.
  Flags(CLI::App& app, const std::string& name, const std::string& what, const std::string& examples);

  Flag yes(const std::string& names, bool& value, const std::string& help);
  Flag number(const std::string& names, int& value, Integers in, const std::string& help);
  Flag number(const std::string& names, std::size_t& value, Integers in, const std::string& help);
  Flag seconds(const std::string& names, double& value, Reals in, const std::string& help);
  Flag real(const std::string& names, double& value, const std::string& form, Reals in,
            const std::string& help);
  /// With commas in between; may be given several times.
  Flag numbers(const std::string& names, std::vector<int>& values, Integers in, const std::string& help);
  Flag numbers(const std::string& names, std::vector<std::size_t>& values, Integers in,
               const std::string& help);
  Flag list(const std::string& names, std::vector<std::string>& values, const std::string& form,
            const std::string& help);

  /// Any text, also an empty one.
  Flag text(const std::string& names, std::string& value, const std::string& help);
  /// May be given several times; the value is not split.
  Flag texts(const std::string& names, std::vector<std::string>& values, const std::string& form,
             const std::string& help);
  /// The name of something: not empty.
  Flag name(const std::string& names, std::string& value, const std::string& form, const std::string& help);
  Flag file(const std::string& names, std::string& value, const std::string& help);
  Flag file(const std::string& names, std::filesystem::path& value, const std::string& help);
  Flag directory(const std::string& names, std::filesystem::path& value, const std::string& help);
  /// Read by a function that throws InvalidArgument for what cannot be.
  Flag value(const std::string& names, const std::string& form, const std::string& help,
             std::function<void(const std::string&)> read);
  /// All words behind the flags, at least one.
  Flag words(const std::string& names, std::vector<std::string>& values, const std::string& form,
             const std::string& help);

  /// Called if the command line has been read, and names this subcommand.
  void then(std::function<void()> action);

 private:
  CLI::App* sub_;
};

}  // namespace mixcomm::tools
