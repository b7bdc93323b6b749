// What bootstraps of processes of one host have in common: a star to meet over, and what they share. (Over a
// transport they meet in another way, and the meeting must end before the transport: TransportBootstrap.)
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bootstrap/process_sharing.hpp"
#include "bootstrap/star_meeting.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm {

class StarBootstrap : public Bootstrap {
 public:
  /// Of `world` ranks, in the numbers of the star.
  StarBootstrap(Star star, std::size_t world, Milliseconds timeout)
      : meeting_(std::move(star), static_cast<int>(world), timeout) {}

  [[nodiscard]] int rank() const override { return meeting_.rank(); }
  [[nodiscard]] int world() const override { return meeting_.world(); }
  std::vector<std::string> exchange(std::string_view step, std::string_view mine) override {
    return meeting_.exchange(step, mine);
  }
  std::shared_ptr<std::byte> share_memory(std::size_t bytes) override { return sharing_.share_memory(bytes); }
  std::vector<Fd> exchange_descriptors(std::string_view step, int mine) override {
    return sharing_.exchange_descriptors(step, mine);
  }
  std::span<const Fd> processes() override { return sharing_.processes(); }

 protected:
  StarMeeting meeting_;
  ProcessSharing sharing_{meeting_, meeting_.patience()};
};

}  // namespace mixcomm
