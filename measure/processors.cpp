#include "measure/processors.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "cpu/processors.hpp"

namespace mixcomm::tools {
namespace {

/// The node of a processor; 0 where the system does not say.
int node_of(int processor) {
  for (int node = 0; node < 64; ++node)
    if (std::ifstream(fmt::format("/sys/devices/system/cpu/cpu{}/node{}/cpulist", processor, node)))
      return node;
  return 0;
}

/// Those of the calling thread, node by node.
std::vector<int> processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> all;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return all;
  for (int p = 0; p < CPU_SETSIZE; ++p)
    if (CPU_ISSET(p, &set) != 0) all.push_back(p);
  std::stable_sort(all.begin(), all.end(), [](int a, int b) { return node_of(a) < node_of(b); });
  return all;
}

}  // namespace

int processors_at_start() {
  static const int count = [] {
    const cpu::RankProcessors own = cpu::own_processors({});
    return cpu::usable_processors({&own, 1});
  }();
  return count;
}

void bind_to_processors_of(int rank, int threads) {
  const std::vector<int> all = processors();
  if (all.empty()) return;
  cpu_set_t mine;
  CPU_ZERO(&mine);
  for (int i = 0; i < threads; ++i)
    CPU_SET(all[static_cast<std::size_t>(rank * threads + i) % all.size()], &mine);
  sched_setaffinity(0, sizeof(mine), &mine);
}

}  // namespace mixcomm::tools
