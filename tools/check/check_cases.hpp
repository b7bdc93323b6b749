// Which cases `mixcomm check` runs on a grid.
#pragma once

#include <vector>

#include "tools/command/options.hpp"
#include "verify/verify.hpp"

namespace mixcomm::tools {

/// Empty lists: everything.
struct CaseFlags {
  std::vector<Op> ops;
  std::vector<Algorithm> algorithms;
  std::vector<DType> dtypes;
  std::vector<verify::Buffers> buffers;
  RowFlags rows;           ///< the shapes of verify::Matrix, unless given
  std::size_t hidden = 0;  ///< of those rows
  bool epilogues = false;  ///< every call with one, in place of none
  bool quick = false;      ///< without messages longer than the workspace
};
void add_case_flags(Flags& flags, CaseFlags& values);

/// The same on every rank. `grid`: of verify::Matrix, tp, dp and backend. Throws InvalidArgument if --uneven
/// does not fit the grid.
[[nodiscard]] std::vector<verify::Case> check_cases_of(const CaseFlags& flags, const verify::Matrix& grid);

}  // namespace mixcomm::tools
