// The threads that help a rank: the library's own or the caller's.
#pragma once

#include <functional>
#include <memory>

#include "cpu/thread_team.hpp"
#include "mixcomm/communicator.hpp"

namespace mixcomm::cpu {

struct Helpers {
  std::shared_ptr<ThreadTeam> team;
  RunPieces workers;  ///< in place of the team

  /// piece(i), 0 <= i < pieces, once each; all are through when it returns.
  template <class Piece>
  void run(int pieces, const Piece& piece) const {
    if (workers)
      workers(pieces, std::cref(piece));
    else
      team->run(pieces, piece);
  }
};

}  // namespace mixcomm::cpu
