#include "mpi/mpi_transport.hpp"

#include <fmt/format.h>

#include "mixcomm/error.hpp"

// What a rank that waits calls all the time: texts are made for errors alone.
namespace mixcomm::mpi {

MpiTransport::MpiTransport(const Library& library, mixcomm_mpi_handle comm, int first_tag, bool owned)
    : library_(library), comm_(comm), next_tag_(first_tag), owned_(owned) {
  library_.check(library_.table->members(comm_, &rank_, &world_),
                 "asking for this rank in MPI's communicator");
  library_.check(library_.table->most_tag(comm_, &most_tag_), "asking for MPI's highest tag");
}

MpiTransport::~MpiTransport() {
  // With messages under way, freeing could wait for ranks that are gone.
  if (owned_ && !abandoned_) library_.table->free_comm(&comm_);
}

Transport::Ticket MpiTransport::send(int to, int tag, std::span<const std::byte> data) {
  mixcomm_mpi_handle request{};
  const int code = library_.table->send(comm_, to, tag, data.data(), data.size(), &request);
  if (code != 0) library_.check(code, fmt::format("rank {}, sending to rank {}", rank_, to));
  return {request.word};
}

Transport::Ticket MpiTransport::receive(int from, int tag, std::span<std::byte> room) {
  mixcomm_mpi_handle request{};
  const int code = library_.table->receive(comm_, from, tag, room.data(), room.size(), &request);
  if (code != 0) library_.check(code, fmt::format("rank {}, receiving from rank {}", rank_, from));
  return {request.word};
}

std::optional<std::size_t> MpiTransport::test(Ticket& ticket) {
  mixcomm_mpi_handle request{ticket.word};
  int done = 0;
  std::size_t bytes = 0;
  const int code = library_.table->test(&request, &done, &bytes);
  ticket.word = request.word;
  if (code != 0) library_.check(code, fmt::format("rank {}, waiting for a message", rank_));
  if (done == 0) return std::nullopt;
  return bytes;
}

std::optional<int> MpiTransport::probe(int tag) {
  int found = 0;
  int from = 0;
  const int code = library_.table->probe(comm_, tag, &found, &from);
  if (code != 0) library_.check(code, fmt::format("rank {}, looking for a message", rank_));
  if (found == 0) return std::nullopt;
  return from;
}

int MpiTransport::new_tag() {
  if (next_tag_ > most_tag_)
    throw SystemError(fmt::format(
        "MPI has {} tags, and all are taken: make fewer communicators, or another bootstrap", most_tag_));
  return next_tag_++;
}

void MpiTransport::abandon() {
  abandoned_ = true;
  library_.table->abandon();
}

}  // namespace mixcomm::mpi
