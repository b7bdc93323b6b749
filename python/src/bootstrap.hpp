// What is behind mixcomm.Bootstrap; and how Python says what a communicator should be.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mixcomm/communicator.hpp"
#include "mixcomm/error.hpp"
#include "process.hpp"

namespace mixcomm::python {

inline Milliseconds milliseconds(double seconds) {
  // Out of range, too, so that the library says what the range is.
  constexpr double most = 1e12;
  return Milliseconds(static_cast<std::int64_t>(std::max(-1.0, std::min(seconds * 1000.0, most))));
}

/// What waits does so without the GIL, and hears of Ctrl-C.
class Waiting {
 public:
  Waiting() = default;

 private:
  InterruptScope interrupt_{interrupt_check()};
  nanobind::gil_scoped_release no_gil_;
};

/// What ends with the bootstrap that it was made from.
class Closable {
 public:
  virtual ~Closable() = default;
  virtual void close() = 0;
};
template <class T>
struct Slot final : Closable {
  std::unique_ptr<T> value;
  void close() override { value.reset(); }
};

/// A bootstrap, and the communicators made from it, which it outlives.
class PyBootstrap {
 public:
  explicit PyBootstrap(std::shared_ptr<Bootstrap> bootstrap) : bootstrap_(std::move(bootstrap)) {}
  ~PyBootstrap() {
    // In a child the sockets and threads are the parent's.
    if (forks() != made_after_) leave_to_parent(bootstrap_);
  }
  PyBootstrap(const PyBootstrap&) = delete;
  PyBootstrap& operator=(const PyBootstrap&) = delete;

  [[nodiscard]] const std::shared_ptr<Bootstrap>& get() const {
    check_not_forked(made_after_, "this bootstrap");
    if (!bootstrap_)
      throw InvalidArgument(
          "this bootstrap is closed: that of run_threads() lives as long as the function that it runs");
    return bootstrap_;
  }
  void add(const std::shared_ptr<Closable>& made) {
    std::erase_if(made_, [](const auto& each) { return each.expired(); });
    made_.push_back(made);
  }
  /// With what was made from it.
  void close() {
    for (const auto& each : made_)
      if (const auto made = each.lock()) made->close();
    made_.clear();
    bootstrap_.reset();
  }

 private:
  std::shared_ptr<Bootstrap> bootstrap_;
  std::vector<std::weak_ptr<Closable>> made_;
  int made_after_ = forks();
};

/// The options of mixcomm.Communicator; the dict has all of them.
inline CommunicatorOptions options_from(const nanobind::dict& given) {
  namespace nb = nanobind;
  CommunicatorOptions options;
  options.tp = nb::cast<int>(given["tp"]);
  options.dp = nb::cast<int>(given["dp"]);
  options.algorithm = algorithm_from_name(nb::cast<std::string>(given["algorithm"]));
  options.timeout = milliseconds(nb::cast<double>(given["timeout"]));
  options.check_agreement = nb::cast<std::optional<bool>>(given["check_agreement"]);
  options.workspace_bytes = nb::cast<std::size_t>(given["workspace_bytes"]);
  options.backend = backend_from_name(nb::cast<std::string>(given["backend"]));
  options.cpu.threads = nb::cast<int>(given["threads"]);
  options.cuda.device = nb::cast<int>(given["device"]);
  options.cuda.protocol = protocol_from_name(nb::cast<std::string>(given["protocol"]));
  options.cuda.max_lanes = nb::cast<int>(given["max_lanes"]);
  options.cuda.multicast = nb::cast<bool>(given["multicast"]);
  options.cuda.nccl = pointer_from(given["nccl"]);
  options.cuda.nccl_windows = nb::cast<bool>(given["nccl_windows"]);
  const nb::object tuning = given["tuning"];
  if (nb::isinstance<TuningTable>(tuning))
    options.tuning = nb::cast<TuningTable>(tuning);
  else if (!tuning.is_none())
    options.tuning = TuningTable::load(nb::cast<std::filesystem::path>(tuning));
  return options;
}

}  // namespace mixcomm::python
