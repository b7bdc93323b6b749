// The inside of Decoder; for decoder.cpp, and for the test that leaves a reduction out.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "runner/boundary.hpp"
#include "runner/decoder.hpp"
#include "runner/embedding.hpp"
#include "runner/linear.hpp"
#include "runner/mixer.hpp"
#include "runner/moe.hpp"
#include "runner/rotary.hpp"

namespace mixcomm::runner {

struct DecoderLayer {
  BoundaryNorm input_norm;
  std::unique_ptr<Mixer> mixer;
  BoundaryNorm moe_norm;
  MixtureOfExperts moe;
};

/// What a Decoder is made from.
struct DecoderSource {
  const ModelConfig& config;
  const Safetensors& weights;
  const Parallelism& parallelism;
  const DecoderOptions& options;
};

struct Decoder::State {
  State(const DecoderSource& source, Communicator& communicator);

  void check_step(std::span<const SequenceInput> inputs, std::span<const std::size_t> rows) const;
  void begin_step(std::span<const SequenceInput> inputs, std::span<const std::size_t> rows);
  void run_layer(std::size_t index);
  /// Of what is in front of layer `index`; behind the last one it is that of the head.
  [[nodiscard]] const BoundaryNorm& norm_before(std::size_t index) const {
    return index < layers.size() ? layers[index].input_norm : final_norm;
  }
  std::span<const float> finish_step(std::size_t inputs, bool all_positions);

  ModelConfig config;
  DecoderOptions options;
  Precision precision;
  Grid grid;
  Products products;
  Embedding embedding;
  std::vector<DecoderLayer> layers;
  BoundaryNorm final_norm;
  Linear head;
  RotaryAngles angles;
  Communicators communicators;
  LayerCommunicator boundaries;  ///< all that the decoder sends
  BoundaryBuffers after_mixer;
  BoundaryBuffers after_moe;

  std::unordered_map<std::size_t, std::size_t> lengths;  ///< tokens in each slot
  StepTimes times;

  // Of the step at hand. "Own" is this DP rank's rows, "all" those of all DP ranks.
  std::vector<SequenceRows> sequences;
  std::optional<RowPlan> step_rows;
  std::size_t own_rows = 0;
  std::vector<std::byte> residual;  ///< of the compute dtype, the own rows
  std::vector<float> own_normed;
  std::vector<float> own_mixed;  ///< what the embedding or a mixer gave
  std::vector<float> last_normed;
  std::vector<float> all_normed;
  std::vector<float> all_moe;
  std::vector<float> logits;
};

}  // namespace mixcomm::runner
