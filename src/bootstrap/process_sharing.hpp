// What ranks that are processes of one host share, whatever it is that they meet over.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "bootstrap/descriptors.hpp"
#include "mixcomm/host_sharing.hpp"
#include "mixcomm/hosts.hpp"
#include "mixcomm/meeting.hpp"

namespace mixcomm {

/// Over a meeting of those ranks, which must outlive this. Memory is a memfd that rank 0 makes, passed to the
/// others over Unix sockets in the abstract namespace.
class ProcessSharing final : public HostSharing {
 public:
  ProcessSharing(Meeting& meeting, Patience patience) : meeting_(meeting), patience_(std::move(patience)) {}

  std::shared_ptr<std::byte> share_memory(std::size_t bytes) override;
  std::vector<Fd> exchange_descriptors(std::string_view step, int mine) override;
  std::span<const Fd> processes() override;

  /// On which hosts the ranks run. Collective, at the first call.
  [[nodiscard]] const Hosts& hosts();
  /// What processes() has found, or nothing if nobody has asked yet.
  [[nodiscard]] std::span<const Fd> known_processes() const { return processes_; }

 private:
  void check_one_host();

  Meeting& meeting_;
  Patience patience_;
  std::vector<Fd> processes_;  ///< by rank, once they were asked for
  Hosts hosts_;                ///< likewise
};

}  // namespace mixcomm
