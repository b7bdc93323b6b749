// Sums of which hosts have made parts: put together, rounded, and finished. Local.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "call.hpp"
#include "hosts/subtrees.hpp"

namespace mixcomm {

/// Memory of one call after the other, which grows as calls want it.
class Rooms {
 public:
  /// All that was taken is free again.
  void clear() { taken_ = 0; }
  [[nodiscard]] std::byte* take(std::size_t bytes) {
    if (taken_ == rooms_.size()) rooms_.emplace_back();
    Room& room = rooms_[taken_++];
    if (room.bytes < bytes) room = {std::make_unique_for_overwrite<std::byte[]>(bytes), bytes};
    return room.memory.get();
  }

 private:
  struct Room {
    std::unique_ptr<std::byte[]> memory;
    std::size_t bytes = 0;
  };
  std::vector<Room> rooms_;
  std::size_t taken_ = 0;
};

/// What a node of the tree over all DP ranks gives, of some elements.
struct PartialSum {
  Subtree node;
  DType dtype = DType::fp32;  ///< or that of the call, if it is one source
  const void* data = nullptr;
};

/// The call's output from element `begin` of the rank's block on: the sum of all nodes, which are the whole
/// tree in their order, rounded once and with the epilogue, of whose tensors it takes the same elements.
void finish(const Call& call, std::size_t begin, std::size_t size, const std::vector<PartialSum>& nodes,
            Rooms& rooms);

}  // namespace mixcomm
