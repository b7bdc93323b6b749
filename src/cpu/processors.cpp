#include "cpu/processors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <string_view>

namespace mixcomm::cpu {
namespace {

/// The first number of OMP_NUM_THREADS, which may be a list, one for each level of nesting; 0 if there is
/// none.
int openmp_threads() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr) return 0;
  const long first = std::strtol(text, nullptr, 10);
  return static_cast<int>(std::clamp<long>(first, 0, most_threads));
}

/// The units in which threads are counted: processors, or cores.
using Units = std::set<int>;

Units processors_of(const RankProcessors& rank) {
  Units processors;
  for (int p = 0; p < CPU_SETSIZE; ++p)
    if (CPU_ISSET(p, &rank.usable) != 0) processors.insert(p);
  return processors;
}

/// How many ranks may run on each unit.
std::map<int, int> sharers_of(const std::vector<Units>& units) {
  std::map<int, int> sharers;
  for (const Units& some : units)
    for (const int unit : some) ++sharers[unit];
  return sharers;
}

ThreadShare share_of(const Units& mine, const std::map<int, int>& sharers, double limit,
                     std::string_view unit_name) {
  double share = 0;
  int most_sharers = 1;
  for (const int unit : mine) {
    share += 1.0 / sharers.at(unit);
    most_sharers = std::max(most_sharers, sharers.at(unit));
  }
  std::string why = fmt::format("{} {}{}", mine.size(), unit_name, mine.size() == 1 ? "" : "s");
  if (most_sharers > 1) why += fmt::format(", which {} ranks share", most_sharers);
  if (limit > 0 && limit < static_cast<double>(sharers.size())) {
    share *= limit / static_cast<double>(sharers.size());
    why += fmt::format(", for which the control group grants the time of {:.3g}", limit);
  }
  // A third and two thirds are a whole.
  return {std::clamp(static_cast<int>(share + 1e-6), 1, most_threads), why};
}

}  // namespace

RankProcessors own_processors(const CpuOptions& options) {
  RankProcessors mine{.usable = {}, .threads = options.threads, .most = openmp_threads()};
  CPU_ZERO(&mine.usable);
  sched_getaffinity(0, sizeof(mine.usable), &mine.usable);
  return mine;
}

std::vector<RankProcessors> exchange_processors(Meeting& meeting, const RankProcessors& mine) {
  std::vector<RankProcessors> all;
  for (const std::string& theirs :
       meeting.exchange("comparing processors", {reinterpret_cast<const char*>(&mine), sizeof(mine)})) {
    RankProcessors& each = all.emplace_back();
    std::memcpy(&each, theirs.data(), std::min(theirs.size(), sizeof(each)));
  }
  return all;
}

int core_of(int processor) {
  // "0,16" or "0-1": those that share a core.
  std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", processor));
  int first = processor;
  return file >> first ? first : processor;
}

double processor_limit() {
  // "200000 100000" is time for two processors; "max 100000" is no limit.
  double quota = 0;
  double period = 0;
  std::ifstream limit("/sys/fs/cgroup/cpu.max");
  return limit >> quota >> period && period > 0 ? quota / period : 0;
}

int usable_processors(std::span<const RankProcessors> ranks, double limit) {
  cpu_set_t all;
  CPU_ZERO(&all);
  for (const RankProcessors& each : ranks) CPU_OR(&all, &all, &each.usable);
  const int count = std::max(CPU_COUNT(&all), 1);
  return limit > 0 ? std::min(count, std::max(1, static_cast<int>(limit))) : count;
}

std::vector<ThreadShare> threads_of(std::span<const RankProcessors> ranks, CoreOf core, double limit) {
  std::vector<Units> processors;
  std::vector<Units> cores;
  std::map<int, int> known;  // the core of each processor
  for (const RankProcessors& each : ranks) {
    processors.push_back(processors_of(each));
    Units& some = cores.emplace_back();
    for (const int p : processors.back()) {
      if (!known.contains(p)) known[p] = core(p);
      some.insert(known[p]);
    }
  }
  const auto processor_sharers = sharers_of(processors);
  const auto core_sharers = sharers_of(cores);
  std::vector<ThreadShare> shares;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const RankProcessors& rank = ranks[r];
    if (rank.threads > 0) {
      shares.push_back({rank.threads, "as asked for"});
    } else if (rank.most == 0) {
      shares.push_back(share_of(cores[r], core_sharers, limit, "core"));
    } else {
      shares.push_back(share_of(processors[r], processor_sharers, limit, "processor"));
      if (rank.most >= shares.back().threads) continue;
      shares.back().threads = rank.most;
      shares.back().why += fmt::format("; OMP_NUM_THREADS says {}", rank.most);
    }
  }
  return shares;
}

}  // namespace mixcomm::cpu
