#include "process.hpp"

#include <fmt/format.h>
#include <nanobind/nanobind.h>
#include <pthread.h>

#include <atomic>

#include "mixcomm/error.hpp"

namespace nb = nanobind;

namespace mixcomm::python {
namespace {

std::atomic<int> fork_count{0};
unsigned long main_thread = 0;

bool pending_signal_raises() {
  // Python may be going away while a thread still waits.
  if (!Py_IsInitialized()) return false;
  const nb::gil_scoped_acquire gil;
  return PyErr_Occurred() != nullptr || PyErr_CheckSignals() != 0;
}

}  // namespace

void watch_process() {
  static const bool once = [] {
    pthread_atfork(nullptr, nullptr, [] { fork_count.fetch_add(1); });
    main_thread =
        nb::cast<unsigned long>(nb::module_::import_("threading").attr("main_thread")().attr("ident"));
    return true;
  }();
  static_cast<void>(once);
}

int forks() {
  return fork_count.load(std::memory_order_relaxed);
}

void check_not_forked(int made_after, std::string_view what) {
  if (forks() == made_after) return;
  throw Unsupported(fmt::format(
      "{} was made before this process was forked, and belongs to the parent: the child shares its memory "
      "and sockets, and would speak in its name. Make communicators in the child, or start processes with "
      "the method 'spawn' or 'forkserver' (multiprocessing.set_start_method)",
      what));
}

void raise_pending() {
  if (PyErr_Occurred() != nullptr) throw nb::python_error();
}

void* pointer_from(nb::handle integer) {
  void* pointer = PyLong_AsVoidPtr(integer.ptr());
  if (pointer == nullptr && PyErr_Occurred() != nullptr) throw nb::python_error();
  return pointer;
}

InterruptCheck interrupt_check() {
  return PyThread_get_thread_ident() == main_thread ? pending_signal_raises : nullptr;
}

}  // namespace mixcomm::python
