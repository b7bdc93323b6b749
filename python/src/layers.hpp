// Registers mixcomm._core.LayerCommunicator.
#pragma once

#include <nanobind/nanobind.h>

namespace mixcomm::python {

void bind_layers(nanobind::module_& m);

}  // namespace mixcomm::python
