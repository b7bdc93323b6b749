// Ranks that MPI started, on one host or on several.
#pragma once

#include <cstddef>
#include <memory>

#include "mixcomm/bootstrap.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// The ranks of MPI_COMM_WORLD, numbered as there: for programs that mpirun or srun started. Initializes MPI
/// unless it is (MPI_THREAD_SERIALIZED); what was initialized here is finalized when the process exits.
///
/// libmixcomm itself links no MPI. It loads a small library that was built for one, libmixcomm_openmpi.so or
/// libmixcomm_mpich.so: that of the MPI that is in the process already; else that of the launcher that
/// started it; or what MIXCOMM_MPI says, "openmpi", "mpich", or the path of such a library.
///
/// Operations between hosts: docs/guide.md, "Several hosts". survivors() throws Unsupported.
///
/// Collective over the ranks, and so is its destruction. Every wait ends by `timeout`, except where MPI's own
/// waits do not (MPI_Init, and MPI_Comm_split_type once all ranks have come). MPI calls are made in set-up
/// and in operations between hosts, by the thread that makes those: other threads must not be in MPI then,
/// unless it was initialized with MPI_THREAD_MULTIPLE. Throws Unsupported where there is no such library, or
/// no MPI; InvalidArgument; Timeout, naming the ranks that did not come; SystemError with MPI's words.
[[nodiscard]] std::unique_ptr<Bootstrap> bootstrap_mpi(Milliseconds timeout = default_timeout);

/// What bootstrap_mpi_comm() calls: `comm` is the address of a MPI_Comm, which has `bytes` bytes.
[[nodiscard]] std::unique_ptr<Bootstrap> bootstrap_mpi_handle(const void* comm, std::size_t bytes,
                                                              Milliseconds timeout = default_timeout);

/// The ranks of a caller's MPI_Comm, numbered as there. It is copied (MPI_Comm_idup) and not used any more;
/// besides that copy, a few messages with the highest tags that there are go over it. Otherwise as
/// bootstrap_mpi().
template <class Comm>
[[nodiscard]] std::unique_ptr<Bootstrap> bootstrap_mpi_comm(const Comm& comm,
                                                            Milliseconds timeout = default_timeout) {
  return bootstrap_mpi_handle(&comm, sizeof(comm), timeout);
}

}  // namespace mixcomm
