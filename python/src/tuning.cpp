// Tables of what pays where, and the measuring that makes them, which the mixcomm command has as well.
#include "tuning.hpp"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include "bootstrap.hpp"
#include "measure/gpu/tune_gpu.hpp"
#include "measure/measure_tuning.hpp"
#include "mixcomm/tuning.hpp"
#include "verify/device.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mixcomm::python {
namespace {

/// That GPU is the calling thread's while this lives.
class OnGpu {
 public:
  explicit OnGpu(int device) : before_(tools::current_gpu()) { tools::use_gpu(device); }
  ~OnGpu() {
    try {
      tools::use_gpu(before_);
    } catch (const Error&) {  // NOLINT(bugprone-empty-catch): it was the current one before
    }
  }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

 private:
  int before_;
};

TuningTable measure(Bootstrap& bootstrap, const tools::TuneOptions& options, int device,
                    const tools::TuneProgress& progress) {
  if (options.backend == BackendKind::cpu) return tools::measure_tuning(bootstrap, options, progress);
  tools::check_tunable(options);
  if (const std::string why = verify::why_no_cuda(); !why.empty()) throw Unsupported("backend cuda: " + why);
  const OnGpu on_gpu(device >= 0 ? device : tools::current_gpu());
  const tools::GpuPlace place = tools::gpu_place(bootstrap, tools::current_gpu());
  return tools::measure_gpu_tuning(bootstrap, options, place, progress);
}

TuningTable tune(const PyBootstrap& bootstrap, const nb::dict& given, const nb::object& progress) {
  const tools::TuneOptions options{.tp = nb::cast<int>(given["tp"]),
                                   .dp = nb::cast<int>(given["dp"]),
                                   .backend = backend_from_name(nb::cast<std::string>(given["backend"])),
                                   .seconds = nb::cast<double>(given["seconds"]),
                                   .most_bytes = nb::cast<std::size_t>(given["most_bytes"]),
                                   .timeout = milliseconds(nb::cast<double>(given["timeout"]))};
  const int device = nb::cast<int>(given["device"]);
  tools::TuneProgress update;
  if (!progress.is_none())
    update = [&progress](std::size_t done, std::size_t all, const std::string& now) {
      const nb::gil_scoped_acquire gil;
      progress(done, all, now);
    };
  // Another thread may close it meanwhile. NOLINTNEXTLINE(performance-unnecessary-copy-initialization)
  const std::shared_ptr<Bootstrap> keep = bootstrap.get();
  TuningTable table;
  {
    const Waiting waiting;
    table = measure(*keep, options, device, update);
  }
  raise_pending();
  return table;
}

}  // namespace

void bind_tuning(nb::module_& m) {
  nb::class_<TuningTable>(m, "TuningTable",
                          "Which algorithm pays where, as measured on one machine for one grid and backend.")
      .def_static("load", &TuningTable::load, "file"_a,
                  "The table in a file. Raises SystemError; InvalidArgument for one that is damaged.")
      .def("save", &TuningTable::save, "file"_a, "Writes it to a file. Raises SystemError.")
      .def_ro("machine", &TuningTable::machine)
      .def_ro("tp", &TuningTable::tp)
      .def_ro("dp", &TuningTable::dp)
      .def_prop_ro("backend", [](const TuningTable& self) { return name(self.backend); })
      .def(
          "algorithm",
          [](const TuningTable& self, const std::string& op, std::uint64_t nbytes, bool symmetric) {
            return name(self.algorithm(op_from_name(op), symmetric, nbytes));
          },
          "op"_a, "nbytes"_a, "symmetric"_a = false,
          "What is best for tensors of so many bytes (all rows); \"auto\" where nothing was measured.")
      .def("__str__", &TuningTable::text)
      .def("__eq__",
           [](const TuningTable& self, const TuningTable& other) { return self.hash() == other.hash(); })
      .def("__hash__", &TuningTable::hash);
  m.def("tune", &tune, "bootstrap"_a, "options"_a, "progress"_a.none());
}

}  // namespace mixcomm::python
