// The small library that is built for the MPI of this process: looked up when it is asked for, never linked.
#pragma once

#include <string>

#include "mpi/table.h"

namespace mixcomm::mpi {

struct Library {
  const mixcomm_mpi_table* table = nullptr;
  std::string path;  ///< for people

  /// "Open MPI v4.1.4"
  [[nodiscard]] std::string version() const;
  /// Throws SystemError with MPI's words unless `code` is 0.
  void check(int code, const std::string& what) const;
};

/// Loaded at the first call, with the MPI that it is for: see mixcomm/mpi.hpp for which. Throws Unsupported
/// with all that was tried, InvalidArgument for a wrong MIXCOMM_MPI.
[[nodiscard]] const Library& library();

}  // namespace mixcomm::mpi
