// mixcomm run: any command, once per rank.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "mixcomm/grid.hpp"
#include "tools/command/command.hpp"
#include "tools/run/job.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(Each process finds MIXCOMM_RANK, MIXCOMM_WORLD_SIZE, MIXCOMM_HOST, MIXCOMM_PORT and MIXCOMM_SECRET in its
environment, which mixcomm::launch_info() and every subcommand of mixcomm read. Rank 0 reads what is piped in.

If a rank fails, the others have --grace seconds to notice and report by themselves, then they get SIGTERM, then
SIGKILL. The exit code is that of the first rank that failed (128 + N if signal N killed it), 124 if --timeout passed,
128 + N if this command itself got signal N.

Examples:
  mixcomm run -n 4 -- mixcomm check --tp 2 --dp 2
  mixcomm run -n 2 --tag -- python3 engine.py
  mixcomm run -n 2 --grace 40 --timeout 600 -- ./server --config a.toml)";

struct RunOptions {
  int ranks = 0;
  int port = 0;
  double grace_s = 5;
  double limit_s = 0;
  bool tag = false;
  std::vector<std::string> command;
};

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

/// Does not return if the command can be started.
int become(const std::vector<std::string>& command, int rank) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  const int error = errno;
  // All ranks have the same to say.
  if (rank == 0)
    fmt::print(stderr, "mixcomm: error: cannot start '{}': {}\n", command[0], std::strerror(error));
  return error == ENOENT ? 127 : 126;  // as shells have it
}

int run(const RunOptions& options) {
  const Job job{.ranks = options.ranks,
                .port = options.port,
                .body = [&](int rank) { return become(options.command, rank); },
                .tag = options.tag,
                .grace = milliseconds_of(options.grace_s),
                .limit = milliseconds_of(options.limit_s),
                .note = [](const std::string& text) { fmt::print(stderr, "mixcomm run: {}\n", text); }};
  return run_job(job).exit_code;
}

}  // namespace

void add_run(CLI::App& app, Invocation& invocation) {
  Flags flags(app, "run", "Start a command once per rank, and look after the processes", examples);
  const auto options = std::make_shared<RunOptions>();
  flags.number("-n,--ranks", options->ranks, {1, max_ranks}, "How many ranks").required();
  flags.number("--port", options->port, {1, 65535}, "Port of 127.0.0.1 where the ranks meet (any free one)");
  flags.seconds("--grace", options->grace_s, {0, 86400}, "What the others get when a rank has failed (5)");
  flags.seconds("--timeout", options->limit_s, {0, 1e9}, "End the whole job after this time (never)");
  flags.yes("--tag", options->tag, "Put [rank] before each line that a rank writes");
  flags.words("command", options->command, "-- COMMAND ARGUMENT...", "The command, behind --");
  flags.then([&invocation, options] { invocation.action = [options] { return run(*options); }; });
}

}  // namespace mixcomm::tools
