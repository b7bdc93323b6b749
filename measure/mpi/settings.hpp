// Which other libraries `mixcomm bench --against` knows, and with which of their settings it runs each.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "measure/bench_cells.hpp"

namespace mixcomm::tools::mpi {

/// One way to start a job of such a library.
struct Setting {
  std::string name;
  std::vector<std::string> arguments;  ///< of the launcher
  std::vector<std::pair<std::string, std::string>> environment;
  bool binds = true;  ///< ranks bind themselves to processors, as ours do
};

struct Flavour {
  std::string name;      ///< as --against has it
  std::string launcher;  ///< "mpiexec.openmpi"
  std::string worker;    ///< the program beside this command
  std::string packages;  ///< that bring it
  std::vector<Setting> settings;
  bool is_mpi = true;           ///< else what a Python environment has, started by tools/bench/peer.py
  bool one_team_alone = false;  ///< it has one team per process, of all ranks

  /// Whether it can carry out such calls on that grid.
  [[nodiscard]] bool can(const Cell& cell, int tp, int dp) const;
};

/// All names.
[[nodiscard]] std::vector<std::string> flavour_names();
/// The flavour of that name, or null. `crowded`: with more ranks than processors.
[[nodiscard]] const Flavour* flavour(std::string_view name, bool crowded);

}  // namespace mixcomm::tools::mpi
