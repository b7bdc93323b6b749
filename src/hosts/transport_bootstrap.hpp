// The bootstrap of ranks that meet over a transport, on one host or on several.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bootstrap/process_sharing.hpp"
#include "hosts/transport.hpp"
#include "hosts/transport_meeting.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm {

class TransportBootstrap final : public Bootstrap {
 public:
  /// All ranks of the transport. Collective: they tell each other on which hosts they are, where `host` is
  /// what only ranks of one host say. Throws what exchange() does.
  TransportBootstrap(std::unique_ptr<Transport> transport, std::string_view host, Milliseconds timeout);

  [[nodiscard]] int rank() const override { return meeting_.rank(); }
  [[nodiscard]] int world() const override { return meeting_.world(); }
  [[nodiscard]] int rank_in_whole(int rank) const override { return meeting_.rank_in_whole(rank); }
  std::vector<std::string> exchange(std::string_view step, std::string_view mine) override {
    return meeting_.exchange(step, mine);
  }

  std::shared_ptr<std::byte> share_memory(std::size_t bytes) override { return sharing_.share_memory(bytes); }
  std::vector<Fd> exchange_descriptors(std::string_view step, int mine) override {
    return sharing_.exchange_descriptors(step, mine);
  }
  std::span<const Fd> processes() override { return sharing_.processes(); }

  Hosts hosts() override { return hosts_; }
  Bootstrap* own_host() override { return own_host_.get(); }
  Transport* transport() override { return hosts_.count() > 1 ? transport_.get() : nullptr; }

 private:
  /// Ranks of one host.
  TransportBootstrap(Transport& transport, std::vector<int> members, int tag, Milliseconds timeout);

  std::unique_ptr<Transport> transport_;  ///< none where it is another one's
  TransportMeeting meeting_;
  ProcessSharing sharing_;
  Hosts hosts_;
  std::unique_ptr<TransportBootstrap> own_host_;
};

}  // namespace mixcomm
