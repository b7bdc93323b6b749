// The failure that a rank's kernels have found, on the host's side.
#pragma once

#include <memory>

#include "cuda/arguments.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm::cuda {

/// Host memory that the device writes a FailureRecord to; reading it costs the host a load.
class FailureBox {
 public:
  FailureBox(const Grid& grid, Milliseconds timeout);

  [[nodiscard]] CallFailure* device_address() const { return device_address_; }
  /// Throws what the kernels have found: Timeout, Disagreement, InvalidArgument. Returns if there is nothing.
  void rethrow() const;

 private:
  Grid grid_;
  Milliseconds timeout_;
  std::shared_ptr<CallFailure> record_;
  CallFailure* device_address_ = nullptr;
};

}  // namespace mixcomm::cuda
