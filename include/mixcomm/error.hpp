// Typed errors. Every message gives the values, the rule that they break, and the way out.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// Base of everything that mixcomm throws.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller's values break a rule of the call. Raised before anything was sent; the communicator stays
/// usable.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// The request is well-formed, but this build, machine or backend cannot serve it.
class Unsupported : public Error {
 public:
  using Error::Error;
};

/// Ranks called different operations, shapes, dtypes or algorithms. The communicator is failed.
class Disagreement : public Error {
 public:
  using Error::Error;
};

/// A rank did not arrive before the deadline. The communicator (or the set-up step) is failed.
class Timeout : public Error {
 public:
  explicit Timeout(const std::string& message, std::vector<int> missing_ranks = {})
      : Error(message), missing_(std::move(missing_ranks)) {}

  /// The ranks that had not arrived when the deadline passed, ascending.
  [[nodiscard]] const std::vector<int>& missing() const noexcept { return missing_; }

 private:
  std::vector<int> missing_;
};

/// A rank will not arrive, however long one waits: the operating system says that its process has ended, or
/// it has left set-up. Found at once instead of at the deadline, which is why it is a Timeout, too: whoever
/// handles those handles both. missing() are the ranks that are gone.
class PeerGone : public Timeout {
 public:
  using Timeout::Timeout;
};

/// A CUDA call failed.
class CudaError : public Error {
 public:
  using Error::Error;
};

/// The operating system refused something (memory, sockets, descriptors).
class SystemError : public Error {
 public:
  using Error::Error;
};

}  // namespace mixcomm
