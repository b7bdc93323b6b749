#include "measure/machine_bound.hpp"

#include <algorithm>
#include <cstring>

#include "algorithms/blocks.hpp"
#include "cpu/thread_team.hpp"
#include "mixcomm/cost.hpp"

namespace mixcomm::tools {

void copy_with(int threads, std::byte* to, const std::byte* from, std::size_t bytes) {
  constexpr std::size_t least_each = std::size_t{8} << 10U;
  const auto pieces =
      std::clamp(static_cast<int>(std::min(bytes / least_each, std::size_t{1024})), 1, threads);
  if (pieces == 1) {
    std::memcpy(to, from, bytes);
    return;
  }
  static thread_local const auto team = cpu::ThreadTeam::of_this_thread();
  team->run(pieces, [&](int i) {
    const Range some = part(bytes, i, pieces);
    std::memcpy(to + some.begin, from + some.begin, some.size);
  });
}

MachineBound::MachineBound(Bootstrap& bootstrap, std::size_t most_bytes, Milliseconds timeout, int threads)
    : rank_(bootstrap.rank()),
      threads_(threads),
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
      copy_with(threads_, out, theirs, some);
      out += some;
      done += some;
    }
  }
  copy_with(threads_, out, area(rank_), std::min(tensor_bytes / static_cast<std::size_t>(world_), written_));
}

}  // namespace mixcomm::tools
