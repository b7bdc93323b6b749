#include "tools/command/machine.hpp"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "cpu/kernels.hpp"

namespace mixcomm::tools {
namespace {

/// The value of the first "name : value" line of a file in /proc.
std::string field(const char* path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, name.size(), name) != 0) continue;
    if (line.find_first_not_of(" \t", name.size()) != colon) continue;
    const std::size_t value = line.find_first_not_of(" \t", colon + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

int numa_nodes() {
  std::error_code error;
  int nodes = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node", error)) {
    const std::string name = entry.path().filename().string();
    if (name.size() > 4 && name.compare(0, 4, "node") == 0 &&
        name.find_first_not_of("0123456789", 4) == std::string::npos)
      ++nodes;
  }
  return nodes;
}

/// How many processors' time the control group grants; 0: no limit is known.
double processor_limit() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
  return std::strtod(quota.c_str(), nullptr) / period;
}

}  // namespace

Json machine() {
  Json result;
  std::string cpu = field("/proc/cpuinfo", "model name");
  if (cpu.empty()) cpu = field("/proc/cpuinfo", "Hardware");
  result["cpu"] = cpu.empty() ? "unknown" : cpu;
  result["processors"] = processors_at_start();
  if (const double limit = processor_limit(); limit > 0) result["processor_limit"] = limit;
  if (const long pages = sysconf(_SC_PHYS_PAGES); pages > 0)
    result["memory_bytes"] = static_cast<std::int64_t>(pages) * sysconf(_SC_PAGESIZE);
  if (const int nodes = numa_nodes(); nodes > 0) result["numa_nodes"] = nodes;
  result["instruction_set"] = std::string(cpu::instruction_set());
  utsname system{};
  if (uname(&system) == 0) {
    result["architecture"] = system.machine;
    result["kernel"] = fmt::format("{} {}", system.sysname, system.release);
  }
  return result;
}

std::string commit() {
  const char* said = std::getenv("MIXCOMM_COMMIT");
  return said != nullptr && *said != '\0' ? said : MIXCOMM_COMMIT;
}

std::string machine_text(const Json& machine) {
  std::string text = fmt::format("  cpu           {}\n", machine.at("cpu").get<std::string>());
  text += fmt::format("  processors    {} usable", machine.at("processors").get<int>());
  if (machine.contains("processor_limit"))
    text += fmt::format(", limited to the time of {:.3g}", machine["processor_limit"].get<double>());
  if (machine.contains("memory_bytes"))
    text += fmt::format("\n  memory        {:.1f} GiB", machine["memory_bytes"].get<double>() / (1U << 30U));
  text += machine.contains("numa_nodes")
              ? fmt::format("\n  NUMA nodes    {}", machine["numa_nodes"].get<int>())
              : "\n  NUMA nodes    not visible";
  if (machine.contains("kernel"))
    text += fmt::format("\n  kernel        {}, {}", machine["kernel"].get<std::string>(),
                        machine["architecture"].get<std::string>());
  return text + "\n";
}

}  // namespace mixcomm::tools
