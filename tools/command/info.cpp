// mixcomm info: this machine, and what this build can do on it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <memory>

#include "bootstrap/system_call.hpp"
#include "cpu/processors.hpp"
#include "death_watch.hpp"
#include "environment.hpp"
#include "mixcomm/mixcomm.hpp"
#include "mpi/library.hpp"
#include "tools/command/backend.hpp"
#include "tools/command/gpus.hpp"
#include "tools/command/machine.hpp"
#include "tools/command/output.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(With --backend cuda the exit code is 2, with the reason, if ranks cannot run there; with --one-gpu or --processes, if they
cannot run in that way.

Examples:
  mixcomm info
  mixcomm info --json
  mixcomm info --backend cuda --one-gpu --processes)";

struct InfoOptions {
  bool json = false;
  BackendFlags backend;
  bool processes = false;
};

/// Throws what ranks would, if the backend was named.
void check_usable(const InfoOptions& options) {
  check_backend(options.backend, {}, 1);
  if (options.backend.cuda() && options.processes && (options.backend.one_gpu || gpu_count() == 1))
    need_mps(2);
}

template <class T>
std::vector<std::string> names(std::initializer_list<T> values) {
  std::vector<std::string> result;
  for (const T value : values) result.emplace_back(name(value));
  return result;
}

Json launcher() {
  try {
    const LaunchInfo info = launch_info();
    if (info.launcher.empty()) return nullptr;
    return {{"name", info.launcher}, {"rank", info.rank}, {"world", info.world}};
  } catch (const Error& error) {
    return {{"error", error.what()}};  // what is wrong with the environment is what one asks `info` for
  }
}

/// Whether a rank that dies is known to the others at once, or by the deadline alone.
Json deaths() {
  try {
    if (this_process().valid()) return {{"told", true}};
    return {{"told", false}, {"why", failure_of("pidfd_open", errno)}};
  } catch (const Error& error) {
    return {{"told", false}, {"why", error.what()}};
  }
}

/// Threads of a rank that has what this process may run on, alone or with others.
Json threads() {
  std::vector<cpu::RankProcessors> ranks(2, cpu::own_processors(with_environment({}).cpu));
  const cpu::ThreadShare alone = cpu::threads_of({ranks.data(), 1}).front();
  return {{"one_rank", alone.threads},
          {"each_of_two", cpu::threads_of(ranks).front().threads},
          {"why", alone.why}};
}

/// What carries data between the CPUs of hosts, in programs that ask for it: the command's own ranks are on
/// one.
Json between_hosts() {
  try {
    const mpi::Library& found = mpi::library();
    return {{"available", true},
            {"why", fmt::format("CPUs, over {}, in programs (bootstrap_mpi(), Python's from_mpi())",
                                found.version())}};
  } catch (const Error& error) {
    return {{"available", false}, {"why", error.what()}};
  }
}

Json describe() {
  Json info;
  info["version"] = MIXCOMM_VERSION;
  info["machine"] = machine();
  info["backends"] = {
      {"cpu",
       {{"available", true},
        {"instruction_set", info["machine"]["instruction_set"]},
        {"threads", threads()}}},
      {"cuda", gpus()},
  };
  info["between_hosts"] = between_hosts();
  info["operations"] = names({Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
                              Op::reduce_scatter_all_reduce});
  info["algorithms"] =
      names({Algorithm::automatic, Algorithm::one_shot, Algorithm::two_shot, Algorithm::composed});
  info["dtypes"] = names({DType::bf16, DType::fp16, DType::fp32});
  info["max_ranks"] = max_ranks;
  info["deaths"] = deaths();
  info["launcher"] = launcher();
  return info;
}

std::string text_of(const Json& info) {
  const auto list = [&](const char* key) {
    return fmt::format("{}", fmt::join(info[key].get<std::vector<std::string>>(), ", "));
  };
  std::string text = fmt::format("mixcomm {}\n\nmachine\n{}", info["version"].get<std::string>(),
                                 machine_text(info["machine"]));
  const Json& cpu = info["backends"]["cpu"];
  const Json& rank_threads = cpu["threads"];
  text +=
      fmt::format("\nbackends\n  cpu           available, {}\n", cpu["instruction_set"].get<std::string>());
  text += fmt::format("                threads of a rank: {} ({}); {} of each of two that share them\n",
                      rank_threads["one_rank"].get<int>(), rank_threads["why"].get<std::string>(),
                      rank_threads["each_of_two"].get<int>());
  text += fmt::format("  cuda          {}", gpus_text(info["backends"]["cuda"]));
  const Json& between = info["between_hosts"];
  text += fmt::format("  between hosts {}: {}\n",
                      between["available"].get<bool>() ? "available" : "not available",
                      between["why"].get<std::string>());
  text += "                GPUs: over NCCL, where backend cuda is there (docs/guide.md)\n";
  text += fmt::format("\noperations      {}\nalgorithms      {}\ndtypes          {}\nmost ranks      {}\n",
                      list("operations"), list("algorithms"), list("dtypes"), info["max_ranks"].get<int>());
  text += fmt::format("dead ranks      {}\n",
                      info["deaths"]["told"].get<bool>()
                          ? "named at once, as pidfd tells of them"
                          : "named at the deadline: " + info["deaths"]["why"].get<std::string>());
  const Json& seen = info["launcher"];
  if (seen.is_null()) return text + "launcher        none: commands start their ranks themselves\n";
  if (seen.contains("error"))
    return text + fmt::format("launcher        {}\n", seen["error"].get<std::string>());
  return text + fmt::format("launcher        {}, rank {} of {}\n", seen["name"].get<std::string>(),
                            seen["rank"].get<int>(), seen["world"].get<int>());
}

}  // namespace

void add_info(CLI::App& app, Invocation& invocation) {
  Flags flags(app, "info", "Say what this machine is, and what this build can do on it", examples);
  const auto options = std::make_shared<InfoOptions>();
  flags.yes("--json", options->json, "As one JSON object");
  add_backend_flags(flags, options->backend);
  flags.yes("--processes", options->processes, "CUDA: ask for ranks as processes");
  flags.then([&invocation, options] {
    invocation.action = [options] {
      check_usable(*options);
      const Json info = describe();
      fmt::print("{}", options->json ? dump(info) + "\n" : text_of(info));
      return all_well;
    };
  });
}

}  // namespace mixcomm::tools
