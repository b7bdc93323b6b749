// The exchange of file descriptors between ranks that are processes of one host.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/fd.hpp"
#include "mixcomm/meeting.hpp"
#include "rank_set.hpp"

namespace mixcomm {

/// How long to wait for descriptors, and who need not be waited for any longer.
struct Patience {
  Milliseconds timeout = default_timeout;
  std::function<RankSet()> gone;      ///< see gone(Star)
  std::function<RankSet()> speaking;  ///< see speaking(Star)
};

/// What a rank brings: a descriptor, or below 0 none; or why it cannot, which all throw.
struct Offer {
  int descriptor = -1;
  std::string problem;
};

/// HostSharing::exchange_descriptors(), for ranks that are known to run on one host.
[[nodiscard]] std::vector<Fd> pass_descriptors(Meeting& meeting, std::string_view step, const Offer& mine,
                                               const Patience& patience);

}  // namespace mixcomm
