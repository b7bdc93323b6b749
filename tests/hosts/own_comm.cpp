// A program that has MPI itself, started by mpirun: it hands a communicator of its own to mixcomm, whose
// ranks are numbered otherwise than those of MPI_COMM_WORLD. Exits with 0 if all was as it should be.
#include <fmt/format.h>
#include <mpi.h>

#include <vector>

#include "mixcomm/mixcomm.hpp"

namespace {

int run(MPI_Comm comm) {
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  const auto bootstrap = mixcomm::bootstrap_mpi_comm(comm);
  if (bootstrap->rank() != rank || bootstrap->world() != size) return 1;
  mixcomm::Communicator communicator(*bootstrap, {.tp = 1, .dp = size});
  const std::vector<float> in(64, static_cast<float>(rank));
  std::vector<float> out(static_cast<std::size_t>(size) * 64);
  communicator.all_gather(mixcomm::tensor(in.data(), 1, 64),
                          mixcomm::tensor(out.data(), static_cast<std::size_t>(size), 64), 1);
  for (int r = 0; r < size; ++r)
    if (out[static_cast<std::size_t>(r) * 64 + 63] != static_cast<float>(r)) return 2;
  // The caller's messages and mixcomm's do not meet.
  int sum = 0;
  MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, comm);
  return sum == size * (size - 1) / 2 ? 0 : 3;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm reversed = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, 0, -rank, &reversed);
  int code = 4;
  try {
    code = run(reversed);
  } catch (const std::exception& error) {
    fmt::print("rank {}: {}\n", rank, error.what());
  }
  if (code != 0) fmt::print("rank {} failed: {}\n", rank, code);
  MPI_Comm_free(&reversed);
  MPI_Finalize();
  return code;
}
