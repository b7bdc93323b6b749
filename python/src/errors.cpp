#include "errors.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <exception>
#include <vector>

#include "mixcomm/error.hpp"

namespace nb = nanobind;

namespace mixcomm::python {
namespace {

template <class T>
const T* as(const std::exception& error) {
  return dynamic_cast<const T*>(&error);
}

const char* name_of(const std::exception& error) {
  if (as<PeerGone>(error)) return "PeerGone";
  if (as<Timeout>(error)) return "Timeout";
  if (as<InvalidArgument>(error)) return "InvalidArgument";
  if (as<Unsupported>(error)) return "Unsupported";
  if (as<Disagreement>(error)) return "Disagreement";
  if (as<CudaError>(error)) return "CudaError";
  if (as<SystemError>(error)) return "SystemError";
  return "Error";
}

void translate(const std::exception_ptr& pointer, void* /*payload*/) {
  try {
    std::rethrow_exception(pointer);
  } catch (const Error& error) {
    // Ctrl-C ends a wait with Timeout, and leaves KeyboardInterrupt (or what the handler raised) behind.
    if (PyErr_Occurred() != nullptr) return;
    const nb::object type = nb::module_::import_("mixcomm.errors").attr(name_of(error));
    const nb::object value = type(error.what());
    if (const auto* timeout = as<Timeout>(error)) {
      nb::list missing;
      for (const int rank : timeout->missing()) missing.append(rank);
      value.attr("missing") = nb::tuple(missing);
    }
    PyErr_SetObject(type.ptr(), value.ptr());
  }
}

}  // namespace

void translate_errors() {
  nb::register_exception_translator(translate);
}

void rethrow_timeout() {
  try {
    throw;
  } catch (nb::python_error& error) {
    if (!error.matches(nb::module_::import_("mixcomm.errors").attr("Timeout"))) return;
    throw Timeout(nb::cast<std::string>(nb::steal<nb::object>(PyObject_Str(error.value().ptr()))),
                  nb::cast<std::vector<int>>(error.value().attr("missing")));
  }
}

}  // namespace mixcomm::python
