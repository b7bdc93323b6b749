// Gated DeltaNet: linear attention with a short convolution and a recurrent state; one TP rank's heads.
#pragma once

#include <cstddef>
#include <span>
#include <unordered_map>
#include <vector>

#include "runner/linear.hpp"
#include "runner/mixer.hpp"
#include "runner/norm.hpp"

namespace mixcomm::runner {

/// Per value head, with S the state (key_dim x value_dim), q and k of the key head that it is paired with:
///   S <- exp(g) S;  S <- S + k (beta (v - k^T S))^T;  o = q^T S
class DeltaNet final : public Mixer {
 public:
  /// Key heads are shared out over the TP ranks, value heads with the key head that they are paired with.
  DeltaNet(const LayerSource& source, const Team& tp);

  void forward(const StepRows& step, std::span<const float> in, std::span<float> out) override;
  void release(std::size_t sequence) override { states_.erase(sequence); }

 private:
  struct Memory {
    std::vector<float> conv;       ///< the last kernel - 1 inputs of the convolution, oldest first
    std::vector<float> recurrent;  ///< value heads x key_dim x value_dim
  };

  /// The channels after the convolution of one row, in place of its projections.
  void convolve(const SequenceRows& sequence, Memory& memory);
  void recur(std::span<float> row, Memory& memory, std::span<float> out);

  Precision precision_;
  std::size_t key_heads_;  ///< of this rank
  std::size_t value_heads_;
  std::size_t key_dim_;
  std::size_t value_dim_;
  std::size_t channels_;  ///< of the convolution: q | k | v
  std::size_t kernel_;
  Linear project_in_;   ///< q | k | v | z | b | a
  Linear project_out_;  ///< partial over tp
  GatedRmsNorm norm_;
  std::vector<float> conv_weight_;  ///< kernel x channels
  std::vector<float> decay_;        ///< exp(A_log), per value head
  std::vector<float> dt_bias_;
  std::unordered_map<std::size_t, Memory> states_;
  std::vector<float> projected_;
  std::vector<float> mixed_;
  std::vector<float> result_;
  std::vector<float> query_;
  std::vector<float> key_;
  std::vector<float> delta_;
};

}  // namespace mixcomm::runner
