// Who is there, and what they tell each other. Ranks may be on any number of hosts.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

using Milliseconds = std::chrono::milliseconds;

/// Every set-up step ends within this time unless told otherwise.
inline constexpr Milliseconds default_timeout{30'000};

/// One rank's part in the meeting of all. All ranks make the same calls in the same order.
class Meeting {
 public:
  virtual ~Meeting() = default;

  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int world() const = 0;

  /// All-gather of one small message: returns every rank's `mine`, by rank. `step` says in errors what the
  /// ranks were doing. `mine` holds at most 8192 bytes, so that everyone's fit into one answer. Throws
  /// InvalidArgument for a longer one, before anything is sent; Timeout (naming the ranks that did not come),
  /// PeerGone (as soon as one has left), Disagreement (ranks in different steps), and then the same at once
  /// from every later step: a failed set-up stays failed.
  virtual std::vector<std::string> exchange(std::string_view step, std::string_view mine) = 0;

  /// By which number errors name a rank of this meeting: its own, unless it is that of a team of another
  /// one's ranks, which has the number then.
  [[nodiscard]] virtual int rank_in_whole(int rank) const { return rank; }
};

}  // namespace mixcomm
