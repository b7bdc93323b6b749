// A Qwen3.5-MoE text decoder over attention TP x DP and expert TP x EP: one rank's part of it.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "mixcomm/mixcomm.hpp"
#include "runner/model_config.hpp"
#include "runner/parallelism.hpp"
#include "runner/safetensors.hpp"

namespace mixcomm::runner {

using Clock = std::chrono::steady_clock;

/// When one boundary's communication, or steps apart from it, began and ended on this rank.
struct CommInterval {
  Clock::time_point begin;
  Clock::time_point end;
};

/// What one forward step did on this rank. Intervals are in the order of execution, the same order on every
/// rank.
struct StepTimes {
  Clock::time_point begin;
  Clock::time_point end;
  std::vector<CommInterval> comm;   ///< with what rides in it: the residual, and the norm
  std::vector<CommInterval> apart;  ///< with DecoderOptions::norms_apart: residuals and norms by themselves
};

struct DecoderOptions {
  DType dtype = DType::fp32;  ///< fp32 or bf16: of activations, weights and what goes over the wire
  Algorithm algorithm = Algorithm::automatic;  ///< of the boundaries' collectives
  std::size_t max_rows = 4096;                 ///< the most rows of all DP ranks together in one step
  /// For measurements: the residual and the norm of each boundary in steps of their own, as engines run them,
  /// in place of the operation's epilogue.
  bool norms_apart = false;

  /// Called before and after each boundary's communication, outside its interval. A measurement holds the
  /// ranks there, so that none computes, on a processor that another one needs, while a collective is timed.
  std::function<void()> hold = {};
};

/// One sequence's new tokens in one step.
struct SequenceInput {
  std::size_t sequence = 0;     ///< a caller-chosen slot; a slot's cache lives until release()
  std::span<const int> tokens;  ///< appended after what the slot holds already
};

/// One rank of the model. Every rank of the communicator makes the same calls; rows are this DP rank's
/// sequences (the same on each of its TP ranks), maybe none.
///
/// Boundaries: each module declares the layout that it takes and gives (runner/layouts.hpp); a
/// LayerCommunicator decides what runs in between, and who adds the residual. The decoder never picks a
/// collective. The norms in front of modules ride in the boundaries' operations, with the residual.
class Decoder {
 public:
  /// Loads this rank's shards. Throws InvalidArgument (a layout that does not divide, a missing tensor, a
  /// wrong shape).
  Decoder(const ModelConfig& config, const Safetensors& weights, const Parallelism& parallelism,
          Communicator& communicator, const DecoderOptions& options);
  ~Decoder();
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;

  /// One step: `inputs` are this DP rank's sequences (prefill: many tokens each; decode: one). `rows[d]` is
  /// the number of tokens of DP rank d in this step; rows[my d] is the sum of inputs' tokens. Returns logits
  /// of the last token of each input, inputs.size() x vocab_size in fp32, valid until the next step; on every
  /// TP rank of the DP rank. With `all_positions` set: of every token.
  std::span<const float> step(std::span<const SequenceInput> inputs, std::span<const std::size_t> rows,
                              bool all_positions = false);

  /// Forgets a slot's cache.
  void release(std::size_t sequence);

  /// Of the last step.
  [[nodiscard]] const StepTimes& times() const;

 private:
  friend struct DecoderTestHook;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mixcomm::runner
