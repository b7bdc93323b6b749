// The hooks of the library that is built to be broken: what of it is broken now.
#pragma once

#include <atomic>

namespace mixcomm::test {

struct Broken {
  /// CPU: the barrier of a pass that is left out, or -1.
  std::atomic<int> dropped_barrier{-1};
  /// CPU: workspaces do not alternate.
  std::atomic<bool> one_workspace{false};
  /// CUDA: 0 nothing, 1 the first barrier is left out, 2 the second one, 3 packets are read without waiting,
  /// 4 workspaces do not alternate, 5 ranks that exchange no data do not greet each other.
  std::atomic<int> on_cuda{0};
};

[[nodiscard]] Broken& broken();

}  // namespace mixcomm::test
