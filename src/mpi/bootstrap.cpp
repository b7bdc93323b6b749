// The bootstrap of ranks that MPI started.
#include <fmt/format.h>

#include <array>
#include <memory>
#include <numeric>
#include <vector>

#include "bootstrap/deadline.hpp"
#include "bootstrap/place.hpp"
#include "hosts/patience.hpp"
#include "hosts/transport_bootstrap.hpp"
#include "mixcomm/error.hpp"
#include "mixcomm/grid.hpp"
#include "mixcomm/mpi.hpp"
#include "mpi/library.hpp"
#include "mpi/mpi_transport.hpp"

namespace mixcomm {
namespace {

using mpi::Library;
using mpi::MpiTransport;

/// Nothing that waits for all is begun before all are known to be there: the caller's communicator is used
/// for that, with its highest tag.
void call_the_roll(const Library& library, mixcomm_mpi_handle comm, Milliseconds timeout) {
  int tag = 0;
  library.check(library.table->most_tag(comm, &tag), "asking for MPI's highest tag");
  MpiTransport given(library, comm, tag, false);
  if (given.world() > max_ranks)
    throw Unsupported(fmt::format("a job holds at most {} ranks, not {}; pass an MPI_Comm of fewer",
                                  max_ranks, given.world()));
  std::vector<int> members(static_cast<std::size_t>(given.world()));
  std::iota(members.begin(), members.end(), 0);
  TransportMeeting meeting(given, std::move(members), given.new_tag(), timeout);
  (void)meeting.exchange("meeting over MPI", "");
}

mixcomm_mpi_handle copy_of(const Library& library, mixcomm_mpi_handle comm, Milliseconds timeout) {
  void* copy = nullptr;
  mixcomm_mpi_handle request{};
  library.check(library.table->begin_copy(comm, &copy, &request), "copying MPI's communicator");
  const Deadline deadline(timeout);
  int done = 0;
  for (Pause pause; done == 0; pause.once()) {
    std::size_t bytes = 0;
    library.check(library.table->test(&request, &done, &bytes), "copying MPI's communicator");
    if (done == 0 && (deadline.passed() || pause.interrupted())) {
      library.table->abandon();
      throw Timeout(fmt::format("a copy of MPI's communicator was not there after {} ms", timeout.count()));
    }
  }
  return library.table->copied(copy);
}

/// What only ranks say that MPI and the system have on one host: memory can be shared there.
std::string host_of(const Library& library, mixcomm_mpi_handle comm) {
  int first = 0;
  library.check(library.table->first_of_host(comm, &first), "asking MPI for the ranks of this host");
  std::array<char, 512> name{};
  library.table->processor_name(name.data(), name.size());
  return fmt::format("{}, with rank {} ({})", name.data(), first, host_identity());
}

std::unique_ptr<Bootstrap> meet_over(const Library& library, mixcomm_mpi_handle comm, Milliseconds timeout) {
  call_the_roll(library, comm, timeout);
  auto transport = std::make_unique<MpiTransport>(library, copy_of(library, comm, timeout), 1, true);
  const std::string host = host_of(library, comm);
  return std::make_unique<TransportBootstrap>(std::move(transport), host, timeout);
}

void start(const Library& library) {
  int ours = 0;
  library.check(library.table->start(&ours), "initializing MPI");
}

}  // namespace

std::unique_ptr<Bootstrap> bootstrap_mpi(Milliseconds timeout) {
  check_timeout(timeout);
  const Library& library = mpi::library();
  start(library);
  return meet_over(library, library.table->world(), timeout);
}

std::unique_ptr<Bootstrap> bootstrap_mpi_handle(const void* comm, std::size_t bytes, Milliseconds timeout) {
  check_timeout(timeout);
  if (comm == nullptr) throw InvalidArgument("bootstrap_mpi_handle: the address of the MPI_Comm is null");
  const Library& library = mpi::library();
  if (bytes != library.table->comm_size)
    throw InvalidArgument(fmt::format(
        "an MPI_Comm of {} bytes was given, but those of {} ({}) have {}: it belongs to another MPI; name "
        "that one in MIXCOMM_MPI",
        bytes, library.version(), library.path, library.table->comm_size));
  start(library);
  return meet_over(library, library.table->comm_at(comm), timeout);
}

}  // namespace mixcomm
