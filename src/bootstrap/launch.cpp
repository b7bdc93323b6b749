// What launchers tell their processes: one row per launcher.
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "mixcomm/bootstrap.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

const char* environment(std::string_view name) {
  const char* value = name.empty() ? nullptr : std::getenv(std::string(name).c_str());
  return value != nullptr && *value != '\0' ? value : nullptr;
}

/// How a launcher says who a process is. The first row whose rank variable is set counts, so the more
/// specific come first.
struct Launcher {
  std::string_view name;
  std::string_view rank;
  std::string_view world;
  std::array<std::string_view, 2>
      job;  ///< what all ranks of a job share and no other job has; a port is made from it
};

constexpr std::array<Launcher, 5> launchers{{
    {"mixcomm run", "MIXCOMM_RANK", "MIXCOMM_WORLD_SIZE", {}},
    {"Open MPI",
     "OMPI_COMM_WORLD_RANK",
     "OMPI_COMM_WORLD_SIZE",
     {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"}},
    {"MPICH", "PMI_RANK", "PMI_SIZE", {}},
    {"torchrun", "RANK", "WORLD_SIZE", {}},
    {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", {"SLURM_JOB_ID", "SLURM_STEP_ID"}},
}};

int number(const Launcher& launcher, std::string_view variable, int least, int most) {
  const char* text = environment(variable);
  if (text == nullptr)
    throw InvalidArgument(
        fmt::format("{} is not set, though {} is: this looks like a process of {}, which sets both", variable,
                    launcher.rank, launcher.name));
  int value = 0;
  const std::string_view view(text);
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  if (error != std::errc() || end != view.data() + view.size() || value < least || value > most)
    throw InvalidArgument(fmt::format("{}={} should be a number from {} to {}", variable, view, least, most));
  return value;
}

/// A port that all ranks of one job find by themselves, below the range that the system hands out.
int port_of_job(const Launcher& launcher) {
  std::uint32_t hash = 2166136261U;
  bool found = false;
  for (const std::string_view variable : launcher.job)
    if (const char* text = environment(variable)) {
      found = true;
      for (; *text != '\0'; ++text) hash = (hash ^ static_cast<unsigned char>(*text)) * 16777619U;
    }
  return found ? 10'000 + static_cast<int>(hash % 20'000U) : 0;
}

}  // namespace

LaunchInfo launch_info() {
  for (const Launcher& launcher : launchers) {
    if (environment(launcher.rank) == nullptr) continue;
    constexpr int most_ranks = 1 << 20;
    LaunchInfo info;
    info.launcher = launcher.name;
    info.world = number(launcher, launcher.world, 1, most_ranks);
    info.rank = number(launcher, launcher.rank, 0, info.world - 1);
    if (const char* secret = environment("MIXCOMM_SECRET")) info.secret = secret;

    const char* host = environment("MIXCOMM_HOST");
    if (host == nullptr) host = environment("MASTER_ADDR");
    info.host = host != nullptr ? host : "127.0.0.1";
    if (environment("MIXCOMM_PORT") != nullptr) {
      info.port = number(launcher, "MIXCOMM_PORT", 1, 65535);
    } else if (environment("MASTER_PORT") != nullptr) {
      // MASTER_PORT itself belongs to the store of whoever set it; the one beside it is ours.
      const int theirs = number(launcher, "MASTER_PORT", 1, 65535);
      info.port = theirs < 65535 ? theirs + 1 : theirs - 1;
    } else {
      info.port = port_of_job(launcher);
    }
    if (info.port == 0 && info.world > 1)
      throw InvalidArgument(
          fmt::format("started by {} with {} ranks, but nothing says where they meet: set MASTER_ADDR and "
                      "MASTER_PORT (or MIXCOMM_HOST and MIXCOMM_PORT) to the same values on every rank",
                      launcher.name, info.world));
    return info;
  }
  return {};
}

}  // namespace mixcomm
