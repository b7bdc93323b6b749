// The main function of the `mixcomm` command, and of mixcomm-demo.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <new>

#include "mixcomm/error.hpp"
#include "tools/command/command.hpp"

namespace mixcomm::tools {
namespace {

std::string quoted(std::string_view word) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("-_./,=:+@%").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return std::string(word);
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

int fail(std::string_view message) {
  std::fflush(stdout);
  fmt::print(stderr, "mixcomm: error: {}\n", message);
  return bad_input;
}

/// The parser would only say that a subcommand is required.
void check_subcommand(const CLI::App& app, const std::string& wanted) {
  std::string names;
  for (const CLI::App* each : app.get_subcommands(nullptr)) {
    if (each->get_name() == wanted) return;
    names += (names.empty() ? "" : ", ") + each->get_name();
  }
  throw InvalidArgument(fmt::format("no subcommand is named '{}'; there are: {}", wanted, names));
}

int run_command(int argc, char** argv) {
  const Program self = program();
  CLI::App app(self.description, self.name);
  app.set_version_flag("--version", "mixcomm " MIXCOMM_VERSION);
  app.footer(self.footer);
  app.require_subcommand(1);
  Invocation invocation{self.name, {}};
  for (int i = 1; i < argc; ++i) invocation.command_line += " " + quoted(argv[i]);
  for (const AddSubcommand add : self.subcommands) add(app, invocation);
  if (argc > 1 && argv[1][0] != '-') check_subcommand(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {
    return app.exit(wish);  // --help and --version
  } catch (const CLI::ExtrasError& error) {
    const bool is_run = argc > 1 && std::string_view(argv[1]) == "run";
    return fail(fmt::format("{}\n{}", error.what(),
                            is_run ? "Put the command behind --." : "Run with --help for more."));
  } catch (const CLI::ParseError& error) {
    return fail(fmt::format("{}\nRun with --help for more.", error.what()));
  }
  return invocation.action();
}

}  // namespace
}  // namespace mixcomm::tools

int main(int argc, char** argv) {
  using namespace mixcomm::tools;
  try {
    const int code = run_command(argc, argv);
    if (std::fflush(stdout) != 0) return fail("cannot write to stdout");
    return code;
  } catch (const ExitNow& now) {
    return now.code;
  } catch (const mixcomm::Error& error) {
    return fail(error.what());
  } catch (const std::bad_alloc&) {
    return fail("out of memory; ask for smaller tensors or fewer ranks");
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}
