// The classes behind mixcomm.Bootstrap and mixcomm.Communicator, without the conveniences that Python adds.
#include "communicator.hpp"

#include <fmt/format.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <memory>
#include <utility>

#include "arrays.hpp"
#include "bootstrap.hpp"
#include "errors.hpp"
#include "mixcomm/communicator.hpp"
#include "mixcomm/error.hpp"
#include "mixcomm/plan.hpp"
#include "process.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mixcomm::python {
namespace {

/// The memory of SymmetricBuffer, which outlives its communicator; leaked in a forked child, where it is the
/// parent's.
struct PyBuffer {
  SymmetricBuffer buffer;
  bool on_cuda = false;
  int device = 0;
  int made_after = forks();

  PyBuffer(SymmetricBuffer given, bool cuda, int index)
      : buffer(std::move(given)), on_cuda(cuda), device(index) {}
  ~PyBuffer() {
    if (forks() != made_after) leave_to_parent(buffer);
  }
  PyBuffer(const PyBuffer&) = delete;
  PyBuffer& operator=(const PyBuffer&) = delete;
};

/// A mixcomm.Epilogue, and what holds its arrays.
class Steps {
 public:
  Steps(nb::handle given, bool on_cuda, int device) {
    if (given.is_none()) return;
    const auto read = [&](const char* which, Access access) {
      const nb::object array = given.attr(which);
      if (array.is_none()) return Tensor{};
      Array& found = arrays_.emplace_back(read_array(array, which, access));
      check_place(found, which, on_cuda, device);
      return found.tensor;
    };
    epilogue_.residual = read("residual", Access::read);
    epilogue_.residual_out = read("residual_out", Access::write);
    // One axis, which is a row.
    epilogue_.weight = as_row(read("weight", Access::read));
    epilogue_.eps = nb::cast<float>(given.attr("eps"));
    epilogue_.weight_plus_one = nb::cast<bool>(given.attr("weight_plus_one"));
    epilogue_.quantize = quantize_from_name(nb::cast<std::string>(given.attr("quantize")));
    scales_ = read("scales", Access::write);
    const Tensor fixed = read("fixed_scale", Access::read);
    if (fixed.data != nullptr && (fixed.dtype != DType::fp32 || fixed.elements() != 1))
      throw InvalidArgument(fmt::format("'fixed_scale' has {} elements of {}; it is one of float32",
                                        fixed.elements(), name(fixed.dtype)));
    epilogue_.fixed_scale = static_cast<const float*>(fixed.data);
    epilogue_.scales = static_cast<float*>(scales_.data);
  }

  [[nodiscard]] Access access_of_out() const {
    return epilogue_.quantizes() ? Access::write_codes : Access::write;
  }
  /// For a call with that output.
  [[nodiscard]] Epilogue value(const Tensor& out) const {
    const std::size_t wanted = out.rows * scales_per_row(epilogue_.quantize, out.hidden);
    if (scales_.data != nullptr && wanted != 0 &&
        (scales_.dtype != DType::fp32 || scales_.elements() != wanted))
      throw InvalidArgument(
          fmt::format("'scales' has {} elements of {}; quantize {} makes {} rows x {} of float32",
                      scales_.elements(), name(scales_.dtype), name(epilogue_.quantize), out.rows,
                      scales_per_row(epilogue_.quantize, out.hidden)));
    return epilogue_;
  }

 private:
  static Tensor as_row(Tensor tensor) {
    if (tensor.hidden == 1 && tensor.rows > 1) std::swap(tensor.rows, tensor.hidden);
    return tensor;
  }

  Epilogue epilogue_;
  Tensor scales_;
  std::vector<Array> arrays_;
};

class PyCommunicator {
 public:
  PyCommunicator(nb::object bootstrap, const nb::dict& given)
      : bootstrap_(std::move(bootstrap)), slot_(std::make_shared<Slot<Communicator>>()) {
    auto& owner = nb::cast<PyBootstrap&>(bootstrap_);
    keep_ = owner.get();
    const CommunicatorOptions options = options_from(given);
    {
      const Waiting waiting;
      slot_->value = std::make_unique<Communicator>(*keep_, options);
    }
    raise_pending();
    owner.add(slot_);
    on_cuda_ = options.backend == BackendKind::cuda;
    device_ = slot_->value->options().cuda.device;
  }
  ~PyCommunicator() {
    if (forks() != made_after_) {
      leave_to_parent(slot_);
      leave_to_parent(keep_);
    }
  }
  PyCommunicator(const PyCommunicator&) = delete;
  PyCommunicator& operator=(const PyCommunicator&) = delete;

  [[nodiscard]] Communicator& get() const {
    check_not_forked(made_after_, "this communicator");
    if (closed()) throw InvalidArgument("this communicator is closed; make a new one");
    return *slot_->value;
  }

  void close() {
    if (forks() != made_after_ || !slot_) return;
    const InUse use(*this);
    slot_->close();
  }
  [[nodiscard]] bool closed() const { return !slot_ || !slot_->value; }

  void run(const std::string& op, nb::handle in, nb::handle out, nb::handle rows,
           const std::string& algorithm, const nb::object& stream, nb::handle epilogue) {
    run_op(op_from_name(op), in, out, rows, algorithm_from_name(algorithm), stream, epilogue);
  }

  /// options.epilogue by itself.
  void apply(nb::handle in, nb::handle out, nb::handle epilogue, const nb::object& stream) {
    Communicator& communicator = get();
    const Given given(*this, in, out, stream, epilogue, Algorithm::automatic);
    const InUse use(*this);
    {
      const Waiting waiting;
      communicator.apply(given.input.tensor, given.output.tensor, given.options);
    }
    raise_pending();
  }

  void run_op(Op op, nb::handle in, nb::handle out, nb::handle rows, Algorithm algorithm,
              const nb::object& stream, nb::handle epilogue) {
    Communicator& communicator = get();
    const Given given(*this, in, out, stream, epilogue, algorithm);
    const bool gathers = shape_of(op).body == Body::gather;
    const Counts counts(rows, gathers ? given.input.tensor.rows : given.output.tensor.rows);
    const InUse use(*this);
    {
      const Waiting waiting;
      communicator.run(op, given.input.tensor, given.output.tensor, counts.value(communicator.grid().dp.size),
                       given.options);
    }
    raise_pending();
  }

  std::unique_ptr<PyBuffer> allocate(std::size_t bytes) {
    Communicator& communicator = get();
    const InUse use(*this);
    SymmetricBuffer buffer;
    {
      const Waiting waiting;
      buffer = communicator.allocate(bytes);
    }
    raise_pending();
    return std::make_unique<PyBuffer>(std::move(buffer), on_cuda_, device_);
  }

  void pause() { wait_for(&Communicator::pause); }
  void resume() { wait_for(&Communicator::resume); }
  [[nodiscard]] bool paused() const { return get().paused(); }

  void check() const {
    const Communicator& communicator = get();
    const InUse use(*this);
    communicator.check();
  }

  /// What `auto` runs, and why.
  nb::tuple choose(const std::string& op, std::size_t bytes, bool symmetric, bool crowded) const {
    const Communicator& communicator = get();
    const CommunicatorOptions& options = communicator.options();
    const Circumstances circumstances{.op = op_from_name(op),
                                      .tp = options.tp,
                                      .dp = options.dp,
                                      .bytes = bytes,
                                      .symmetric = symmetric,
                                      .crowded = crowded,
                                      .backend = options.backend,
                                      .tuning = options.tuning ? &*options.tuning : nullptr};
    return nb::make_tuple(name(mixcomm::choose(circumstances)).data(), why_chosen(circumstances));
  }

  [[nodiscard]] nb::dict info() const {
    const Communicator& communicator = get();
    const CommunicatorOptions& options = communicator.options();
    const Grid& grid = communicator.grid();
    nb::dict info;
    info["rank"] = grid.rank();
    info["world_size"] = grid.world.size;
    info["tp"] = grid.tp.size;
    info["tp_rank"] = grid.tp.member;
    info["dp"] = grid.dp.size;
    info["dp_rank"] = grid.dp.member;
    info["backend"] = std::string(name(options.backend));
    info["algorithm"] = std::string(name(options.algorithm));
    info["timeout"] = static_cast<double>(options.timeout.count()) / 1000.0;
    info["check_agreement"] = options.check_agreement.value_or(false);
    info["workspace_bytes"] = options.workspace_bytes;
    info["threads"] = options.cpu.threads;
    return info;
  }

 private:
  /// What a call was given, read and checked; stays where it is made.
  struct Given {
    Given(const PyCommunicator& self, nb::handle in, nb::handle out, const nb::object& stream,
          nb::handle epilogue, Algorithm algorithm)
        : steps(epilogue, self.on_cuda_, self.device_),
          input(read_array(in, "input", Access::read)),
          output(read_array(out, "out", steps.access_of_out())),
          options{.algorithm = algorithm} {
      check_place(input, "input", self.on_cuda_, self.device_);
      check_place(output, "out", self.on_cuda_, self.device_);
      options.epilogue = steps.value(output.tensor);
      if (self.on_cuda_) options.stream = stream.is_none() ? current_stream(in, input) : pointer_from(stream);
    }
    Given(const Given&) = delete;
    Given& operator=(const Given&) = delete;

    Steps steps;
    Array input;
    Array output;
    CallOptions options;
  };

  /// The GIL does not keep a second thread out while the first one waits.
  class InUse {
   public:
    explicit InUse(const PyCommunicator& communicator) : flag_(communicator.in_use_) {
      if (flag_.test_and_set())
        throw InvalidArgument(
            "this communicator is being used by another thread; calls are made from one thread at a time, in "
            "the same "
            "order on every rank");
    }
    ~InUse() { flag_.clear(); }
    InUse(const InUse&) = delete;
    InUse& operator=(const InUse&) = delete;

   private:
    std::atomic_flag& flag_;
  };

  void wait_for(void (Communicator::*step)()) {
    Communicator& communicator = get();
    const InUse use(*this);
    {
      const Waiting waiting;
      (communicator.*step)();
    }
    raise_pending();
  }

  nb::object bootstrap_;
  std::shared_ptr<Bootstrap> keep_;
  std::shared_ptr<Slot<Communicator>> slot_;
  mutable std::atomic_flag in_use_;
  bool on_cuda_ = false;
  int device_ = -1;
  int made_after_ = forks();
};

/// Runs fn(bootstrap) on one thread a rank; see mixcomm::run_threads. Python exceptions come out as they are.
void run_ranks_as_threads(int world, const nb::callable& fn, double timeout) {
  const nb::gil_scoped_release no_gil;
  mixcomm::run_threads(
      world,
      [&fn](Bootstrap& bootstrap) {
        const nb::gil_scoped_acquire gil;
        const std::shared_ptr<Bootstrap> borrowed(&bootstrap, [](Bootstrap*) {});
        const nb::object mine = nb::cast(new PyBootstrap(borrowed), nb::rv_policy::take_ownership);
        struct Closes {
          nb::object object;
          ~Closes() { nb::cast<PyBootstrap&>(object).close(); }
        } closes{mine};
        try {
          fn(mine);
        } catch (const nb::python_error&) {
          rethrow_timeout();
          throw;
        }
      },
      milliseconds(timeout));
}

std::unique_ptr<PyBootstrap> bootstrap_processes(const nb::dict& given, double timeout) {
  LaunchInfo info;
  info.launcher = "Python";
  info.rank = nb::cast<int>(given["rank"]);
  info.world = nb::cast<int>(given["world_size"]);
  info.host = nb::cast<std::string>(given["host"]);
  info.port = nb::cast<int>(given["port"]);
  info.secret = nb::cast<std::string>(given["secret"]);
  std::shared_ptr<Bootstrap> bootstrap;
  {
    const Waiting waiting;
    bootstrap = mixcomm::bootstrap_processes(info, milliseconds(timeout));
  }
  raise_pending();
  return std::make_unique<PyBootstrap>(std::move(bootstrap));
}

nb::dict launch() {
  const LaunchInfo info = launch_info();
  nb::dict dict;
  dict["launcher"] = info.launcher;
  dict["rank"] = info.rank;
  dict["world_size"] = info.world;
  dict["host"] = info.host;
  dict["port"] = info.port;
  dict["secret"] = info.secret;
  return dict;
}

}  // namespace

void bind_communicator(nb::module_& m) {
  nb::class_<PyBootstrap>(m, "Bootstrap", "One rank's end of the rendezvous.")
      .def_prop_ro("rank", [](const PyBootstrap& self) { return self.get()->rank(); })
      .def_prop_ro("world_size", [](const PyBootstrap& self) { return self.get()->world(); })
      .def("close", &PyBootstrap::close, "Ends it, and the communicators made from it.");

  nb::class_<PyBuffer>(m, "Buffer", "Symmetric memory; see Communicator.allocate.")
      .def_prop_ro("nbytes", [](const PyBuffer& self) { return self.buffer.bytes(); })
      .def_prop_ro("on_cuda", [](const PyBuffer& self) { return self.on_cuda; })
      .def_prop_ro("data_ptr",
                   [](const PyBuffer& self) { return reinterpret_cast<std::uintptr_t>(self.buffer.data()); })
      .def(
          "array",
          [](nb::handle self, std::vector<std::size_t> shape, const std::string& dtype, std::size_t offset,
             bool as_bits) {
            const auto& memory = nb::cast<const PyBuffer&>(self);
            check_not_forked(memory.made_after, "this buffer");
            View view{.data = nullptr,
                      .shape = std::move(shape),
                      .dtype = dtype_from_name(dtype),
                      .as_bits = as_bits,
                      .on_cuda = memory.on_cuda,
                      .device = memory.device};
            std::size_t bytes = size_of(view.dtype);
            for (const std::size_t length : view.shape)
              if (__builtin_mul_overflow(bytes, length, &bytes)) throw InvalidArgument("the shape overflows");
            if (offset % size_of(view.dtype) != 0 || offset > memory.buffer.bytes() ||
                bytes > memory.buffer.bytes() - offset)
              throw InvalidArgument(
                  fmt::format("an array of {} bytes at byte {} does not lie in a buffer of {} bytes, aligned "
                              "to its elements",
                              bytes, offset, memory.buffer.bytes()));
            view.data = memory.buffer.data() + offset;
            return make_array(view, self);
          },
          "shape"_a, "dtype"_a, "offset"_a = 0, "as_bits"_a = false,
          "An array over it that speaks DLPack, and keeps it.");

  nb::class_<PyCommunicator>(m, "Communicator", "See mixcomm.Communicator.")
      .def(nb::init<nb::object, const nb::dict&>(), "bootstrap"_a, "options"_a)
      .def("run", &PyCommunicator::run, "op"_a, "input"_a, "out"_a, "rows"_a.none(), "algorithm"_a,
           "stream"_a.none(), "epilogue"_a.none() = nb::none())
      .def("apply", &PyCommunicator::apply, "input"_a, "out"_a, "epilogue"_a, "stream"_a.none())
      .def("allocate", &PyCommunicator::allocate, "nbytes"_a)
      .def("pause", &PyCommunicator::pause)
      .def("resume", &PyCommunicator::resume)
      .def_prop_ro("paused", &PyCommunicator::paused)
      .def("check", &PyCommunicator::check)
      .def("choose", &PyCommunicator::choose, "op"_a, "nbytes"_a, "symmetric"_a, "crowded"_a)
      .def("info", &PyCommunicator::info)
      .def("close", &PyCommunicator::close)
      .def_prop_ro("closed", &PyCommunicator::closed);

  m.def("run_threads", &run_ranks_as_threads, "world_size"_a, "fn"_a, "timeout"_a);
  m.def("bootstrap_processes", &bootstrap_processes, "info"_a, "timeout"_a);
  m.def("launch_info", &launch);
}

}  // namespace mixcomm::python
