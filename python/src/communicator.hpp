// Registers the classes of mixcomm._core.
#pragma once

#include <nanobind/nanobind.h>

namespace mixcomm::python {

void bind_communicator(nanobind::module_& m);

}  // namespace mixcomm::python
