// Which MPIs `mixcomm bench --against` knows, and with which of their settings it runs each.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mixcomm::tools::mpi {

/// One way to start a job of an MPI.
struct Setting {
  std::string name;
  std::vector<std::string> arguments;  ///< of mpiexec
  std::vector<std::pair<std::string, std::string>> environment;
  bool binds = true;  ///< ranks bind themselves to a processor each, as ours do
};

struct Flavour {
  std::string name;      ///< as --against has it
  std::string launcher;  ///< "mpiexec.openmpi"
  std::string worker;    ///< the program beside this command
  std::string packages;  ///< that bring it
  std::vector<Setting> settings;
};

/// The flavour of that name, or null. `crowded`: with more ranks than processors.
[[nodiscard]] const Flavour* flavour(std::string_view name, bool crowded);

}  // namespace mixcomm::tools::mpi
