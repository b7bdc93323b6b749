// The connections between rank 0 and the others, and the exchange of messages over them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bootstrap/deadline.hpp"
#include "bootstrap/message.hpp"
#include "mixcomm/bootstrap.hpp"
#include "rank_set.hpp"

namespace mixcomm {

/// Other ranks wait a little longer than rank 0, so that its verdict, which knows who is missing, reaches
/// them.
inline constexpr Milliseconds grace{3000};

/// One rank's end. Ranks count from 0 within the star.
struct Star {
  int rank = 0;
  std::vector<Fd> peers;  ///< rank 0's: by rank, its own is invalid; else empty
  Fd root;                ///< the others'
};

/// All-gather of one message: see Bootstrap::exchange(). After an exception the star must not be used again.
[[nodiscard]] std::vector<std::string> exchange_over(const Star& star, int world, std::string_view step,
                                                     std::string_view mine, Milliseconds timeout);

/// Which ranks have closed their connection: for rank 0 any, for the others rank 0 alone. Does not wait.
[[nodiscard]] RankSet gone(const Star& star);

/// Which ranks have said something that rank 0 has not read yet: they are in the next step. Of rank 0 alone;
/// does not wait.
[[nodiscard]] RankSet speaking(const Star& star);

/// Throws it.
[[noreturn]] void raise(const Verdict& verdict);

/// Tells it to all that are connected; who does not take it within `grace` goes without.
void tell(const std::vector<Fd>& peers, const Message& message);

/// "rank 3", "ranks 1, 3"
[[nodiscard]] std::string name_ranks(const std::vector<int>& ranks);

}  // namespace mixcomm
