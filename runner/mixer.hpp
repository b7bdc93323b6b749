// What attention and DeltaNet have in common: they mix the rows of each sequence, and remember.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "mixcomm/grid.hpp"
#include "runner/linear.hpp"
#include "runner/model_config.hpp"
#include "runner/rotary.hpp"
#include "runner/shard.hpp"

namespace mixcomm::runner {

/// The rows of one sequence in this step.
struct SequenceRows {
  std::size_t sequence = 0;
  std::size_t first_row = 0;
  std::size_t rows = 0;
  std::size_t position = 0;  ///< of the first row: how many tokens the sequence held before
};

/// One step's batch, the same for every layer.
struct StepRows {
  std::span<const SequenceRows> sequences;
  const RotaryAngles& angles;
};

/// One layer's share of heads on one TP rank.
class Mixer {
 public:
  Mixer() = default;
  Mixer(const Mixer&) = delete;
  Mixer& operator=(const Mixer&) = delete;
  virtual ~Mixer() = default;

  /// in: normed rows x hidden; out: the same shape, partial over tp. Appends to the sequences' caches.
  virtual void forward(const StepRows& step, std::span<const float> in, std::span<float> out) = 0;

  /// Forgets a sequence's cache.
  virtual void release(std::size_t sequence) = 0;
};

/// What a layer's modules are made from.
struct LayerSource {
  const ModelConfig& config;
  const Shards& shards;
  Products& products;
  std::string prefix;  ///< "layers.3."
};

}  // namespace mixcomm::runner
