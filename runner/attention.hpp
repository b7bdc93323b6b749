// Full attention with grouped heads, normed queries and keys, and an output gate: one TP rank's heads.
#pragma once

#include <cstddef>
#include <span>
#include <unordered_map>
#include <vector>

#include "runner/linear.hpp"
#include "runner/mixer.hpp"
#include "runner/norm.hpp"

namespace mixcomm::runner {

class Attention final : public Mixer {
 public:
  /// Query heads are shared out over the TP ranks. So are KV heads; where there are more ranks than KV heads,
  /// each rank holds the one that its query heads use.
  Attention(const LayerSource& source, const Team& tp);

  void forward(const StepRows& step, std::span<const float> in, std::span<float> out) override;
  void release(std::size_t sequence) override { caches_.erase(sequence); }

 private:
  /// positions x head_dim each, one pair per KV head of this rank.
  struct KvHead {
    std::vector<float> keys;
    std::vector<float> values;
  };

  /// One row's projections: each query head with its gate, then keys, then values.
  void append(const StepRows& step, const SequenceRows& sequence, std::vector<KvHead>& cache);
  void attend(const KvHead& kv, std::span<const float> query, std::size_t positions, std::span<float> out);

  Precision precision_;
  std::size_t heads_;         ///< query heads of this rank
  std::size_t first_head_;    ///< the first of them, in the model
  std::size_t heads_per_kv_;  ///< of the model
  std::size_t first_kv_head_;
  std::size_t kv_heads_;
  std::size_t head_dim_;
  float scale_;
  Linear project_in_;   ///< q (with gate) | k | v
  Linear project_out_;  ///< partial over tp
  RmsNorm query_norm_;
  RmsNorm key_norm_;
  std::unordered_map<std::size_t, std::vector<KvHead>> caches_;
  std::vector<float> projected_;
  std::vector<float> attended_;
  std::vector<float> scores_;
};

}  // namespace mixcomm::runner
