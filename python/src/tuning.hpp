// Registers mixcomm._core.TuningTable and tune().
#pragma once

#include <nanobind/nanobind.h>

namespace mixcomm::python {

void bind_tuning(nanobind::module_& m);

}  // namespace mixcomm::python
