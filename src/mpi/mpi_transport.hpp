// MPI as a transport: point-to-point messages alone, none of which blocks.
#pragma once

#include "hosts/transport.hpp"
#include "mpi/library.hpp"

namespace mixcomm::mpi {

class MpiTransport final : public Transport {
 public:
  /// Gives out tags from `first_tag` on. `owned`: `comm` is freed with this.
  MpiTransport(const Library& library, mixcomm_mpi_handle comm, int first_tag, bool owned);
  ~MpiTransport() override;
  MpiTransport(const MpiTransport&) = delete;
  MpiTransport& operator=(const MpiTransport&) = delete;

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world() const override { return world_; }

  Ticket send(int to, int tag, std::span<const std::byte> data) override;
  Ticket receive(int from, int tag, std::span<std::byte> room) override;
  std::optional<std::size_t> test(Ticket& ticket) override;
  std::optional<int> probe(int tag) override;
  int new_tag() override;
  void abandon() override;

 private:
  const Library& library_;
  mixcomm_mpi_handle comm_;
  int rank_ = 0;
  int world_ = 0;
  int next_tag_;
  int most_tag_ = 0;
  bool owned_;
  bool abandoned_ = false;
};

}  // namespace mixcomm::mpi
