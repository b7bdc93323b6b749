#include "tools/machine_bound.hpp"

#include <algorithm>
#include <cstring>

#include "algorithms/blocks.hpp"
#include "tools/traffic.hpp"

namespace mixcomm::tools {

MachineBound::MachineBound(Bootstrap& bootstrap, std::size_t most_bytes, Milliseconds timeout)
    : rank_(bootstrap.rank()),
      world_(bootstrap.world()),
      // An all-reduce receives nearly twice its tensor.
      stride_(4 * round_up(std::max<std::size_t>(most_bytes, 1), 4096)),
      memory_(bootstrap.share_memory(stride_ * static_cast<std::size_t>(world_))),
      flags_(bootstrap, 1, timeout) {}

void MachineBound::write(const std::byte* source, std::size_t bytes) {
  std::memcpy(area(rank_), source, bytes);
  written_ = bytes;
}

void MachineBound::run(const Cell& cell, int tp, int dp, std::size_t tensor_bytes) {
  flags_.barrier();
  std::byte* out = area(rank_) + stride_ / 4;
  // As much from each of the others; what they have written may be less than that, then some of it twice.
  const auto peers = static_cast<std::size_t>(std::max(world_ - 1, 1));
  const auto from_each = static_cast<std::size_t>(wire_bytes(cell.op, tp, dp, tensor_bytes)) / peers;
  for (int i = 1; i < world_; ++i) {
    const std::byte* theirs = area((rank_ + i) % world_);
    for (std::size_t done = 0; done < from_each && written_ != 0;) {
      const std::size_t some = std::min(from_each - done, written_);
      std::memcpy(out, theirs, some);
      out += some;
      done += some;
    }
  }
  std::memcpy(out, area(rank_), std::min(tensor_bytes / static_cast<std::size_t>(world_), written_));
}

}  // namespace mixcomm::tools
