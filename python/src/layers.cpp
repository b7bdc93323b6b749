// The class behind mixcomm.LayerCommunicator.
#include "layers.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "arrays.hpp"
#include "bootstrap.hpp"
#include "mixcomm/layer_communicator.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mixcomm::python {
namespace {

/// The names of C++'s enumerators.
constexpr std::array<std::pair<std::string_view, Rows>, 4> rows_names{{{"replicated", Rows::replicated},
                                                                       {"by_dp_rank", Rows::by_dp_rank},
                                                                       {"scattered", Rows::scattered},
                                                                       {"by_mlp_team", Rows::by_mlp_team}}};

Rows rows_from_name(const std::string& text) {
  for (const auto& [each, rows] : rows_names)
    if (each == text) return rows;
  throw InvalidArgument("rows lie '" + text +
                        "'; they may lie replicated, by_dp_rank, scattered or by_mlp_team");
}

std::string name_of(Rows given) {
  for (const auto& [each, rows] : rows_names)
    if (rows == given) return std::string(each);
  return "?";
}

/// A mixcomm.Layer as a dict.
LayerModules layer_from(const nb::dict& given, const Parallelism& parallelism) {
  const auto is = [&given](const char* field) { return nb::cast<bool>(given[field]); };
  const auto kind = nb::cast<std::string>(given["mlp"]);
  if (kind != "dense" && kind != "moe" && kind != "moe+shared")
    throw InvalidArgument("a layer is '" + kind + "'; it may be dense, moe or moe+shared");
  const bool reduced = is("mlp_reduced");
  std::optional<SharedExpert> shared;
  if (kind == "moe+shared" && !reduced) {
    shared.emplace();
    if (is("shared_reduced")) *shared = {{Rows::replicated}, Joined::on_one_member};
  } else if (is("shared_reduced")) {
    throw InvalidArgument(
        "shared_reduced is for a layer 'moe+shared' whose mlp_reduced is not set, not for '" + kind +
        "'; what mlp_reduced says holds for the shared expert, too");
  }
  LayerModules layer{modules::attention(),
                     kind == "dense" ? modules::dense_mlp(parallelism) : modules::experts(shared)};
  if (is("attention_reduced")) layer.attention.gives.owed = complete;
  if (reduced) layer.mlp.gives.owed = complete;
  layer.attention.adds_residual = is("attention_adds_residual");
  layer.mlp.adds_residual = is("mlp_adds_residual");
  return layer;
}

/// A dict of Python's keyword arguments as the model that they describe.
ModelModules model_from(const nb::dict& given, const Parallelism& parallelism) {
  ModelModules model;
  const bool sharded = nb::cast<bool>(given["vocab_parallel"]);
  model.embedding = sharded ? modules::sharded_embedding() : modules::embedding();
  model.head = sharded ? modules::sharded_head() : modules::head();
  for (const nb::handle each : given["layers"])
    model.layers.push_back(layer_from(nb::cast<nb::dict>(each), parallelism));
  return model;
}

struct Made {
  std::unique_ptr<Communicators> communicators;
  std::unique_ptr<LayerCommunicator> layers;

  ~Made() { layers.reset(); }  // before the communicators that it uses
};

/// A step's rows, as Python holds them.
struct PyRowPlan {
  RowPlan plan;
};

class PyLayers {
 public:
  PyLayers(nb::object bootstrap, const nb::dict& options, const nb::dict& model)
      : bootstrap_(std::move(bootstrap)), slot_(std::make_shared<Slot<Made>>()) {
    auto& owner = nb::cast<PyBootstrap&>(bootstrap_);
    keep_ = owner.get();
    const Parallelism parallelism{.attn_tp = nb::cast<int>(model["attn_tp"]),
                                  .attn_dp = nb::cast<int>(model["attn_dp"]),
                                  .moe_tp = nb::cast<int>(model["moe_tp"]),
                                  .moe_ep = nb::cast<int>(model["moe_ep"]),
                                  .mlp_tp = nb::cast<int>(model["mlp_tp"])};
    LayerPlan plan(model_from(model, parallelism), parallelism);
    const LayerCommunicatorOptions layer_options{
        .max_rows = nb::cast<std::size_t>(model["max_rows"]),
        .hidden = nb::cast<std::size_t>(model["hidden"]),
        .vocab = nb::cast<std::size_t>(model["vocab"]),
        .dtype = dtype_from_name(nb::cast<std::string>(model["dtype"]))};
    const CommunicatorOptions communicator_options = options_from(options);
    on_cuda_ = communicator_options.backend == BackendKind::cuda;
    device_ = communicator_options.cuda.device;
    {
      const Waiting waiting;
      auto made = std::make_unique<Made>();
      made->communicators = std::make_unique<Communicators>(*keep_, communicator_options);
      made->layers =
          std::make_unique<LayerCommunicator>(std::move(plan), *made->communicators, layer_options);
      slot_->value = std::move(made);
    }
    raise_pending();
    owner.add(slot_);
  }
  ~PyLayers() {
    if (forks() == made_after_) return;
    leave_to_parent(slot_);
    leave_to_parent(keep_);
  }
  PyLayers(const PyLayers&) = delete;
  PyLayers& operator=(const PyLayers&) = delete;

  [[nodiscard]] LayerCommunicator& get() const {
    check_not_forked(made_after_, "this layer communicator");
    if (!slot_ || !slot_->value) throw InvalidArgument("this layer communicator is closed; make a new one");
    return *slot_->value->layers;
  }
  void close() {
    if (forks() == made_after_ && slot_) slot_->close();
  }

  void pause() { wait_for(&Communicators::pause); }
  void resume() { wait_for(&Communicators::resume); }
  [[nodiscard]] bool paused() const {
    (void)get();
    return slot_->value->communicators->paused();
  }

  [[nodiscard]] const Boundary& boundary(const std::string& which, std::size_t layer) const {
    const LayerCommunicator& layers = get();
    if (which == "logits") return layers.logits();
    if (layer >= layers.plan().modules().layers.size())
      throw InvalidArgument("there is no layer " + std::to_string(layer) + "; the model has " +
                            std::to_string(layers.plan().modules().layers.size()));
    if (which == "before_attention") return layers.before_attention(layer);
    if (which == "before_mlp") return layers.before_mlp(layer);
    if (which == "after_mlp") return layers.after_mlp(layer);
    throw InvalidArgument("the boundary is '" + which +
                          "'; it may be before_attention, before_mlp, after_mlp or logits");
  }

  [[nodiscard]] nb::dict describe(const std::string& which, std::size_t layer) const {
    const Boundary& found = boundary(which, layer);
    nb::list steps;
    for (const Step& step : found.transition.steps) steps.append(std::string(name(step)));
    nb::list before;
    for (const Addend& addend : found.addends)
      if (get().adds_before(found, addend.name)) before.append(addend.name);
    nb::list after;
    for (const Addend& addend : found.addends)
      if (addend.added == Added::after) after.append(addend.name);
    nb::dict dict;
    dict["name"] = found.name;
    dict["takes"] = name_of(found.transition.from.rows);
    dict["gives"] = name_of(found.transition.to.rows);
    dict["steps"] = steps;
    dict["why"] = found.transition.why;
    dict["adds_before"] = before;
    dict["adds_after"] = after;
    return dict;
  }

  [[nodiscard]] PyRowPlan rows(const std::vector<std::size_t>& counts, const std::string& way) const {
    return {get().rows(counts, rows_way_from_name(way))};
  }
  [[nodiscard]] nb::tuple range(const std::string& layout, const PyRowPlan& rows) const {
    const RowRange found = get().range(rows_from_name(layout), rows.plan);
    return nb::make_tuple(found.first, found.count);
  }

  void cross(const std::string& which, std::size_t layer, nb::handle in, nb::handle out,
             const PyRowPlan& rows, const std::string& algorithm, const nb::object& stream) {
    const Boundary& found = boundary(which, layer);
    const Array input = read_array(in, "input", Access::write);
    const Array output = read_array(out, "out", Access::write);
    check_place(input, "input", on_cuda_, device_);
    check_place(output, "out", on_cuda_, device_);
    CallOptions options{.algorithm = algorithm_from_name(algorithm), .stream = nullptr};
    if (on_cuda_) options.stream = stream.is_none() ? current_stream(in, input) : pointer_from(stream);
    LayerCommunicator& layers = get();
    {
      const Waiting waiting;
      layers.cross(found, input.tensor, output.tensor, rows.plan, options);
    }
    raise_pending();
  }

 private:
  void wait_for(void (Communicators::*step)()) {
    (void)get();
    {
      const Waiting waiting;
      ((*slot_->value->communicators).*step)();
    }
    raise_pending();
  }

  nb::object bootstrap_;
  std::shared_ptr<Bootstrap> keep_;
  std::shared_ptr<Slot<Made>> slot_;
  bool on_cuda_ = false;
  int device_ = -1;  ///< -1: whichever was the current one
  int made_after_ = forks();
};

}  // namespace

void bind_layers(nb::module_& m) {
  nb::class_<PyRowPlan>(m, "RowPlan", "The rows of one step; see LayerCommunicator.rows.")
      .def_prop_ro("total", [](const PyRowPlan& self) { return self.plan.total(); });
  nb::class_<PyLayers>(m, "LayerCommunicator", "See mixcomm.LayerCommunicator.")
      .def(nb::init<nb::object, const nb::dict&, const nb::dict&>(), "bootstrap"_a, "options"_a, "model"_a)
      .def("describe", &PyLayers::describe, "boundary"_a, "layer"_a)
      .def("rows", &PyLayers::rows, "counts"_a, "way"_a)
      .def("range", &PyLayers::range, "layout"_a, "rows"_a)
      .def("cross", &PyLayers::cross, "boundary"_a, "layer"_a, "input"_a, "out"_a, "rows"_a, "algorithm"_a,
           "stream"_a.none())
      .def("pause", &PyLayers::pause)
      .def("resume", &PyLayers::resume)
      .def_prop_ro("paused", &PyLayers::paused)
      .def("close", &PyLayers::close);
}

}  // namespace mixcomm::python
