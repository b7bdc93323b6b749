#include "tools/command/ranks.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <mutex>

#include "bootstrap/system_call.hpp"
#include "tools/run/job.hpp"

namespace mixcomm::tools {
namespace {

using Body = std::function<Json(Bootstrap&)>;

Json run_as_threads(const RankOptions& options, const Body& fn) {
  std::mutex mutex;
  std::exception_ptr first;  // in time: the others' errors follow from it
  Json result;
  const auto rank = [&](Bootstrap& bootstrap) {
    try {
      Json value = fn(bootstrap);
      if (bootstrap.rank() == 0) result = std::move(value);
    } catch (...) {
      {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
      }
      throw;  // so that the others do not wait for this rank
    }
  };
  try {
    run_threads(options.world, rank, options.timeout);
  } catch (...) {
    if (first) std::rethrow_exception(first);
    throw;
  }
  return result;
}

/// What a rank's process leaves for the one that started it: memory without a name.
class Letter {
 public:
  Letter() : fd_(memfd_create("mixcomm-result", MFD_CLOEXEC)) {
    if (!fd_.valid()) throw_failed("cannot make memory for the result of a rank", "memfd_create");
  }
  void write(const Json& json) const {
    const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
    for (std::size_t done = 0; done < text.size();) {
      const ssize_t n = ::write(fd_.get(), text.data() + done, text.size() - done);
      if (n <= 0) return;  // a letter cut short is found when it is read
      done += static_cast<std::size_t>(n);
    }
  }
  /// Discarded if nothing whole was written.
  [[nodiscard]] Json read() const {
    std::string text(static_cast<std::size_t>(std::max<off_t>(lseek(fd_.get(), 0, SEEK_END), 0)), '\0');
    const ssize_t n = pread(fd_.get(), text.data(), text.size(), 0);
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    return Json::parse(text, nullptr, false);
  }

 private:
  Fd fd_;
};

Json run_as_processes(const RankOptions& options, const Body& fn) {
  const std::vector<Letter> letters(static_cast<std::size_t>(options.world));
  const auto body = [&](int rank) {
    const Letter& letter = letters[static_cast<std::size_t>(rank)];
    try {
      const auto bootstrap = bootstrap_processes(launch_info(), options.timeout);
      const Json value = fn(*bootstrap);
      if (rank == 0) letter.write({{"value", value}});
      return all_well;
    } catch (const std::exception& error) {
      letter.write({{"error", error.what()}});
      return bad_input;
    }
  };
  const JobEnd end = run_job({.ranks = options.world, .body = body, .note = {}});
  if (end.interrupted) throw ExitNow{end.exit_code};
  if (!end.failures.empty()) {
    const RankEnd& first = end.failures.front();
    const Json letter = letters[static_cast<std::size_t>(first.rank)].read();
    if (letter.is_object() && letter.contains("error")) throw Error(letter["error"].get<std::string>());
    throw SystemError(to_string(first));
  }
  const Json letter = letters[0].read();
  if (!letter.is_object() || !letter.contains("value")) throw SystemError("rank 0 ended without a result");
  return letter["value"];
}

}  // namespace

RanksResult run_ranks(const RankOptions& options, const Body& fn) {
  const LaunchInfo info = launch_info();
  if (info.launcher.empty())
    return {options.processes ? run_as_processes(options, fn) : run_as_threads(options, fn), true};
  if (info.world != options.world)
    throw InvalidArgument(
        fmt::format("{} started {} rank{}, but {} are asked for; start that many, or run this outside of {}, "
                    "where it starts its ranks itself",
                    info.launcher, info.world, info.world == 1 ? "" : "s", options.world, info.launcher));
  const auto bootstrap = bootstrap_processes(info, options.timeout);
  return {fn(*bootstrap), info.rank == 0};
}

int launched_world() {
  const LaunchInfo info = launch_info();
  return info.launcher.empty() ? 0 : info.world;
}

bool this_process_prints() {
  return launch_info().rank == 0;
}

}  // namespace mixcomm::tools
