// Waits that a user can end: for languages in which Ctrl-C is an exception.
#pragma once

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// Whether the user of the calling thread wants its wait to end. Must not throw.
using InterruptCheck = bool (*)();

/// While it lives, waits of the calling thread ask `check` whenever they wake: after a signal at once, else a
/// few times a second. Where it says true, the wait ends with Timeout: a communicator is then failed, for all
/// ranks, which name this one. Short waits, which never sleep, do not ask. Scopes nest; null asks nobody.
class InterruptScope {
 public:
  explicit InterruptScope(InterruptCheck check);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  InterruptCheck before_;
};

/// What the innermost scope of this thread says; false without one.
[[nodiscard]] bool interrupted();

}  // namespace mixcomm
