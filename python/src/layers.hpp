// Registers mixcomm._core.LayerCommunicator, where the library has one.
#pragma once

#include <nanobind/nanobind.h>

namespace mixcomm::python {

void bind_layers(nanobind::module_& m);

}  // namespace mixcomm::python
