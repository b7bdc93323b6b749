#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "communicator.hpp"
#include "errors.hpp"
#include "layers.hpp"
#include "process.hpp"
#include "tuning.hpp"

NB_MODULE(_core, m) {
  m.doc() = "The C++ library behind mixcomm; use the package instead.";
  mixcomm::python::watch_process();
  mixcomm::python::translate_errors();
  mixcomm::python::bind_tuning(m);
  mixcomm::python::bind_communicator(m);
  mixcomm::python::bind_layers(m);
  m.attr("version") = MIXCOMM_VERSION;
  m.attr("cuda_architectures") = MIXCOMM_CUDA_ARCHITECTURES;  // "80-real,90a-real"; "" without CUDA
#ifdef MIXCOMM_HAS_CUDA
  m.attr("built_with_cuda") = true;
#else
  m.attr("built_with_cuda") = false;
#endif
}
