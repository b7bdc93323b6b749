// What the modules of this decoder declare. The decoder runs what a LayerPlan finds between them, and
// `mixcomm plan` shows it.
#pragma once

#include <utility>

#include "mixcomm/layer_plan.hpp"
#include "runner/model_config.hpp"

namespace mixcomm::runner {

/// The shared expert is sliced over all ranks, and so summed with the routed ones; the embedding and the head
/// are whole on every rank. In front of every attention, every mixture of experts and the head is a norm.
[[nodiscard]] inline ModelModules modules_of(const ModelConfig& config) {
  ModelModules model{.embedding = modules::embedding(), .layers = {}, .head = modules::head(), .logits = {}};
  for (const LayerKind kind : config.layers)
    model.layers.push_back(
        {modules::attention(kind == LayerKind::full_attention ? "full attention" : "linear attention"),
         modules::experts(SharedExpert{})});
  return modules::with_norms(std::move(model));
}

}  // namespace mixcomm::runner
