// What launchers tell their processes: one row per launcher.
#include "bootstrap/launch.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

using Names = std::array<std::string_view, 3>;

/// How a launcher says who a process is. Where several rows hold and say the same, the first one is named.
struct Launcher {
  std::string_view id;  ///< in MIXCOMM_LAUNCHER
  std::string_view name;
  std::string_view rank;
  std::string_view world;  ///< "": no variable of the launcher's says how many ranks there are
  Names job;               ///< what all ranks of a job share and no other job has; a port is made from it
  Names anew;   ///< what it, and nobody else, sets to something new at each start, besides rank and world
  Names place;  ///< where its ranks meet; that says nothing of ranks that another launcher started
};

constexpr std::string_view slurm = "slurm";

constexpr std::array<Launcher, 7> launchers{{
    {.id = "mixcomm",
     .name = "mixcomm run",
     .rank = "MIXCOMM_RANK",
     .world = "MIXCOMM_WORLD_SIZE",
     .job = {},
     .anew = {"MIXCOMM_RUN_ID"},
     .place = {"MIXCOMM_HOST", "MIXCOMM_PORT", "MIXCOMM_SECRET"}},
    {.id = "openmpi",
     .name = "Open MPI",
     .rank = "OMPI_COMM_WORLD_RANK",
     .world = "OMPI_COMM_WORLD_SIZE",
     .job = {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"},
     .anew = {"OMPI_FILE_LOCATION", "OMPI_MCA_ess_base_jobid"},
     .place = {}},
    {.id = "torchrun",
     .name = "torchrun",
     .rank = "RANK",
     .world = "WORLD_SIZE",
     .job = {},
     .anew = {"TORCHELASTIC_RUN_ID"},
     .place = {"MASTER_ADDR", "MASTER_PORT"}},
    {.id = slurm,
     .name = "Slurm",
     .rank = "SLURM_PROCID",
     .world = "SLURM_NTASKS",
     .job = {"SLURM_JOB_ID", "SLURM_STEP_ID"},
     .anew = {"SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_TASK_PID"},
     .place = {}},
    {.id = "flux",
     .name = "Flux",
     .rank = "FLUX_TASK_RANK",
     .world = "FLUX_JOB_SIZE",
     .job = {"FLUX_JOB_ID"},
     .anew = {"FLUX_JOB_ID"},
     .place = {}},
    {.id = "pmi",
     .name = "MPICH",
     .rank = "PMI_RANK",
     .world = "PMI_SIZE",
     .job = {"PMI_JOBID"},
     .anew = {"PMI_JOBID", "PMI_FD"},
     .place = {}},
    {.id = "pmix",
     .name = "a PMIx launcher",
     .rank = "PMIX_RANK",
     .world = "",
     .job = {"PMIX_NAMESPACE"},
     .anew = {"PMIX_NAMESPACE"},
     .place = {}},
}};

/// As text of ours, or nothing if it is not set, or to nothing.
std::optional<std::string_view> value_in(const Variables& variables, std::string_view name) {
  const auto found = name.empty() ? variables.end() : variables.find(name);
  if (found == variables.end() || found->second.empty()) return std::nullopt;
  return found->second;
}

/// The script of a Slurm job and its interactive shell have SLURM_PROCID=0 as well, and are no ranks: they
/// have no step, or one of the numbers that are kept for them.
bool is_rank_of_a_step(const Variables& own) {
  constexpr std::uint32_t first_kept = 0xfffffff0;
  const auto step = value_in(own, "SLURM_STEP_ID");
  std::uint32_t number = 0;
  return step && (std::from_chars(step->data(), step->data() + step->size(), number).ec != std::errc() ||
                  number < first_kept);
}

std::vector<const Launcher*> launchers_in(const Variables& own) {
  std::vector<const Launcher*> found;
  for (const Launcher& launcher : launchers)
    if (value_in(own, launcher.rank) && (launcher.id != slurm || is_rank_of_a_step(own)))
      found.push_back(&launcher);
  return found;
}

std::optional<int> parsed(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

int number(std::string_view variable, std::string_view text, int least, int most) {
  const std::optional<int> value = parsed(text);
  if (!value || *value < least || *value > most)
    throw InvalidArgument(fmt::format("{}={} should be a number from {} to {}", variable, text, least, most));
  return *value;
}

/// Who this process is, going by its variables and those of its ancestors.
class Reading {
 public:
  explicit Reading(std::span<const Variables> generations)
      : generations_(generations), own_(generations[0]), found_(launchers_in(own_)) {}

  LaunchInfo read() {
    if (const auto wanted = value_in(own_, "MIXCOMM_LAUNCHER")) {
      if (*wanted == "none") return {};
      chosen_ = named(*wanted);
    } else {
      if (found_.empty()) return {};
      chosen_ = innermost();
    }
    LaunchInfo info;
    info.launcher = chosen_->name;
    info.world = world(*chosen_);
    info.rank = number(chosen_->rank, *value_in(own_, chosen_->rank), 0, info.world - 1);
    info.secret = place("MIXCOMM_SECRET").value_or("");
    info.host = place("MIXCOMM_HOST").value_or(place("MASTER_ADDR").value_or("127.0.0.1"));
    info.port = port(info);
    return info;
  }

 private:
  /// How many processes, from this one up, have had these variables as they are: who set them last has the
  /// fewest. Variables that are nowhere do not count.
  [[nodiscard]] std::size_t age(std::span<const std::string_view> names) const {
    std::size_t parents = 0;
    const auto as_here = [&](std::string_view name) {
      return value_in(generations_[parents + 1], name) == value_in(own_, name);
    };
    while (parents + 1 < generations_.size() && std::ranges::all_of(names, as_here)) ++parents;
    return parents;
  }
  [[nodiscard]] std::size_t age(const Launcher& launcher) const {
    std::vector<std::string_view> names{launcher.rank, launcher.world};
    names.insert(names.end(), launcher.anew.begin(), launcher.anew.end());
    return age(names);
  }

  [[nodiscard]] const Launcher* named(std::string_view id) const {
    std::vector<std::string_view> ids;
    for (const Launcher& launcher : launchers) {
      ids.push_back(launcher.id);
      if (launcher.id != id) continue;
      if (value_in(own_, launcher.rank)) return &launcher;
      throw InvalidArgument(
          fmt::format("MIXCOMM_LAUNCHER={}, but {}, by which {} says who a process is, is not set", id,
                      launcher.rank, launcher.name));
    }
    throw InvalidArgument(fmt::format("MIXCOMM_LAUNCHER={} is none of {}, none", id, fmt::join(ids, ", ")));
  }

  /// The launcher that set its variables last. Where nothing tells which of several that was, they must
  /// agree.
  [[nodiscard]] const Launcher* innermost() const {
    std::size_t least = generations_.size();
    for (const Launcher* launcher : found_) least = std::min(least, age(*launcher));
    std::vector<const Launcher*> last;
    for (const Launcher* launcher : found_)
      if (age(*launcher) == least) last.push_back(launcher);
    const Launcher* first = last[0];
    for (const Launcher* other : last) {
      if (!agree(*first, *other)) refuse(*first, *other);
      if (!value_in(own_, first->world)) first = other;
    }
    return first;
  }

  [[nodiscard]] bool agree(const Launcher& a, const Launcher& b) const {
    const auto same = [&](std::string_view one, std::string_view other) {
      const auto first = parsed(*value_in(own_, one));
      return first && first == parsed(*value_in(own_, other));
    };
    const bool both_know = value_in(own_, a.world) && value_in(own_, b.world);
    return &a == &b || (same(a.rank, b.rank) && (!both_know || same(a.world, b.world)));
  }
  [[noreturn]] void refuse(const Launcher& a, const Launcher& b) const {
    const auto claim = [&](const Launcher& launcher) {
      std::string text = fmt::format("{}={}", launcher.rank, *value_in(own_, launcher.rank));
      if (const auto world = value_in(own_, launcher.world))
        text += fmt::format(" {}={}", launcher.world, *world);
      return fmt::format("{} ({})", launcher.name, text);
    };
    throw InvalidArgument(fmt::format(
        "{} and {} contradict each other, and nothing tells which of them started this process: unset the "
        "variables of the one that did not, or name the one that did (MIXCOMM_LAUNCHER={} or {})",
        claim(a), claim(b), a.id, b.id));
  }

  [[nodiscard]] int world(const Launcher& launcher) const {
    constexpr std::string_view by_hand = "MIXCOMM_WORLD_SIZE";
    const std::string_view variable = launcher.world.empty() ? by_hand : launcher.world;
    const auto text = launcher.world.empty() ? place(by_hand) : value_in(own_, variable);
    if (text) return number(variable, *text, 1, most_ranks);
    if (launcher.world.empty())
      throw InvalidArgument(fmt::format(
          "{}={} says that {} (prterun, for example) started this process, but no variable says how many "
          "ranks "
          "there are: set {} to that on every rank (prterun -x {}=N), or use mpirun, which says so",
          launcher.rank, *value_in(own_, launcher.rank), launcher.name, by_hand, by_hand));
    throw InvalidArgument(
        fmt::format("{} is not set, though {} is: this looks like a process of {}, which sets both", variable,
                    launcher.rank, launcher.name));
  }

  /// The launcher around the one that counts with which a variable came, if any.
  [[nodiscard]] const Launcher* came_with(std::string_view name) const {
    for (const Launcher* other : found_) {
      if (age(*other) <= age(*chosen_)) continue;
      const bool theirs = std::ranges::find(other->place, name) != other->place.end() || other->world == name;
      if (theirs && age(std::array{name}) >= age(*other)) return other;
    }
    return nullptr;
  }

  /// A variable that says where to meet, unless it came with a launcher around the one that counts: the ranks
  /// of that one meet there, and those of others that it started, too.
  [[nodiscard]] std::optional<std::string_view> place(std::string_view name) const {
    return came_with(name) == nullptr ? value_in(own_, name) : std::nullopt;
  }

  [[noreturn]] void refuse_without_place(const LaunchInfo& info) const {
    std::string text = fmt::format(
        "started by {} with {} ranks, but nothing says where they meet: set MASTER_ADDR and MASTER_PORT (or "
        "MIXCOMM_HOST and MIXCOMM_PORT) to the same values on every rank",
        info.launcher, info.world);
    for (const std::string_view name : {"MASTER_PORT", "MIXCOMM_PORT"})
      if (const Launcher* other = came_with(name); other != nullptr && value_in(own_, name))
        text += fmt::format("; {}={} came with {}, around it, and is for the ranks of that one", name,
                            *value_in(own_, name), other->name);
    throw InvalidArgument(text);
  }

  [[nodiscard]] int port(const LaunchInfo& info) const {
    if (const auto ours = place("MIXCOMM_PORT")) return number("MIXCOMM_PORT", *ours, 1, 65535);
    if (const auto text = place("MASTER_PORT")) {
      // MASTER_PORT itself belongs to the store of whoever set it; the one beside it is ours.
      const int theirs = number("MASTER_PORT", *text, 1, 65535);
      return theirs < 65535 ? theirs + 1 : theirs - 1;
    }
    int port = port_of_job(*chosen_);
    for (const Launcher* other : found_)
      if (port == 0 && agree(*chosen_, *other)) port = port_of_job(*other);
    if (port == 0 && info.world > 1) refuse_without_place(info);
    return port;
  }

  /// A port that all ranks of one job find by themselves, below the range that the system hands out.
  [[nodiscard]] int port_of_job(const Launcher& launcher) const {
    std::uint32_t hash = 2166136261U;
    bool found = false;
    for (const std::string_view variable : launcher.job)
      if (const auto text = value_in(own_, variable)) {
        found = true;
        for (const char c : fmt::format("{}={}\n", variable, *text))
          hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
      }
    return found ? 10'000 + static_cast<int>(hash % 20'000U) : 0;
  }

  static constexpr int most_ranks = 1 << 20;

  std::span<const Variables> generations_;
  const Variables& own_;
  std::vector<const Launcher*> found_;
  const Launcher* chosen_ = nullptr;
};

}  // namespace

LaunchInfo launch_info_of(std::span<const Variables> generations) {
  return Reading(generations).read();
}

LaunchInfo launch_info() {
  const Variables own = variables_of_this_process();
  if (launchers_in(own).size() < 2) return launch_info_of({&own, 1});
  return launch_info_of(generations());
}

}  // namespace mixcomm
