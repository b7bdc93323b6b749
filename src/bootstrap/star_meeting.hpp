// A meeting of ranks over a star of connections.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bootstrap/descriptors.hpp"
#include "bootstrap/star.hpp"
#include "mixcomm/meeting.hpp"

namespace mixcomm {

class StarMeeting final : public Meeting {
 public:
  /// Of `world` ranks, in the numbers of the star.
  StarMeeting(Star star, int world, Milliseconds timeout)
      : star_(std::move(star)), world_(world), timeout_(timeout) {}

  [[nodiscard]] int rank() const override { return star_.rank; }
  [[nodiscard]] int world() const override { return world_; }
  std::vector<std::string> exchange(std::string_view step, std::string_view mine) override;

  /// Every later step fails, with this unless one has failed already.
  void close(std::exception_ptr why) {
    if (!failure_) failure_ = std::move(why);
  }

  /// How long to wait for its ranks, and which of them need not be waited for. This must outlive it.
  [[nodiscard]] Patience patience() const {
    return {timeout_, [this] { return gone(star_); }, [this] { return speaking(star_); }};
  }

 private:
  Star star_;
  int world_;
  Milliseconds timeout_;
  std::exception_ptr failure_;
};

}  // namespace mixcomm
