// What Python brings with it: forks, and Ctrl-C.
#pragma once

#include <nanobind/nanobind.h>

#include <new>
#include <string_view>
#include <utility>

#include "mixcomm/interrupt.hpp"

namespace mixcomm::python {

/// Call once, from the thread that imports.
void watch_process();

/// How often this process was forked from the one that loaded the extension: what was made before a fork
/// belongs to the parent.
[[nodiscard]] int forks();

/// Throws Unsupported unless `made_after` is forks(). `what` is "this communicator".
void check_not_forked(int made_after, std::string_view what);

/// Raises what a signal handler left behind in a wait that went well all the same.
void raise_pending();

/// The address that a Python int is (a stream, an ncclComm_t, a data_ptr()).
[[nodiscard]] void* pointer_from(nanobind::handle integer);

/// Never destroys it: what a forked child inherits is the parent's.
template <class T>
void leave_to_parent(T& inherited) noexcept {
  static_cast<void>(new (std::nothrow) T(std::move(inherited)));
}

/// The check that lets Ctrl-C end the waits of Python's main thread, where signals are handled; null on other
/// threads.
[[nodiscard]] InterruptCheck interrupt_check();

}  // namespace mixcomm::python
