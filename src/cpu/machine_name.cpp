#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "cpu/kernels.hpp"
#include "mixcomm/tuning.hpp"

namespace mixcomm {

std::string machine_name() {
  std::string processor = "unknown processor";
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) != 0 || colon == std::string::npos) continue;
    processor = line.substr(colon + 2);
    break;
  }
  return fmt::format("{}, {} processors, {}", processor, sysconf(_SC_NPROCESSORS_ONLN),
                     cpu::instruction_set());
}

}  // namespace mixcomm
