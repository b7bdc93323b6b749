#include "runner/attention.hpp"

#include <algorithm>
#include <cmath>

namespace mixcomm::runner {
namespace {

Range kv_range(const ModelConfig& config, const Team& tp) {
  const auto kv_heads = static_cast<int>(config.num_key_value_heads);
  if (tp.size <= kv_heads) return share(config.num_key_value_heads, tp.size, tp.member);
  return {static_cast<std::size_t>(tp.member / (tp.size / kv_heads)), 1};
}

Matrix load_in(const LayerSource& source, const Team& tp) {
  const ModelConfig& config = source.config;
  const std::size_t dim = config.head_dim;
  const std::size_t hidden = config.hidden_size;
  const Range heads = share(config.num_attention_heads, tp.size, tp.member);
  const Range kv = kv_range(config, tp);
  const std::string name = source.prefix + "self_attn.";
  // Each query head is followed by its gate.
  Matrix weight = source.shards.rows(name + "q_proj.weight", {config.num_attention_heads * dim * 2, hidden},
                                     heads.times(dim * 2));
  const std::size_t kv_rows = config.num_key_value_heads * dim;
  weight.append(source.shards.rows(name + "k_proj.weight", {kv_rows, hidden}, kv.times(dim)));
  weight.append(source.shards.rows(name + "v_proj.weight", {kv_rows, hidden}, kv.times(dim)));
  return weight;
}

Matrix load_out(const LayerSource& source, const Team& tp) {
  const ModelConfig& config = source.config;
  const Range heads = share(config.num_attention_heads, tp.size, tp.member);
  return source.shards.block(source.prefix + "self_attn.o_proj.weight",
                             {config.hidden_size, config.num_attention_heads * config.head_dim},
                             {0, config.hidden_size}, heads.times(config.head_dim));
}

RmsNorm load_norm(const LayerSource& source, std::string_view name) {
  return {source.shards.vector(source.prefix + std::string(name), source.config.head_dim),
          source.config.rms_norm_eps, source.shards.precision()};
}

}  // namespace

Attention::Attention(const LayerSource& source, const Team& tp)
    : precision_(source.shards.precision()),
      heads_(share(source.config.num_attention_heads, tp.size, tp.member).size),
      first_head_(share(source.config.num_attention_heads, tp.size, tp.member).begin),
      heads_per_kv_(source.config.num_attention_heads / source.config.num_key_value_heads),
      first_kv_head_(kv_range(source.config, tp).begin),
      kv_heads_(kv_range(source.config, tp).size),
      head_dim_(source.config.head_dim),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)))),
      project_in_(source.products, load_in(source, tp)),
      project_out_(source.products, load_out(source, tp)),
      query_norm_(load_norm(source, "self_attn.q_norm.weight")),
      key_norm_(load_norm(source, "self_attn.k_norm.weight")) {}

void Attention::append(const StepRows& step, const SequenceRows& sequence, std::vector<KvHead>& cache) {
  cache.resize(kv_heads_);
  const std::size_t width = project_in_.out_features();
  for (std::size_t row = sequence.first_row; row < sequence.first_row + sequence.rows; ++row) {
    const std::span<float> projected(projected_.data() + row * width, width);
    for (std::size_t head = 0; head < heads_; ++head) {
      const auto query = projected.subspan(head * 2 * head_dim_, head_dim_);
      query_norm_(query, query);
      step.angles.rotate(row, query);
    }
    for (std::size_t head = 0; head < kv_heads_; ++head) {
      const auto key = projected.subspan((heads_ * 2 + head) * head_dim_, head_dim_);
      const auto value = projected.subspan((heads_ * 2 + kv_heads_ + head) * head_dim_, head_dim_);
      key_norm_(key, key);
      step.angles.rotate(row, key);
      cache[head].keys.insert(cache[head].keys.end(), key.begin(), key.end());
      cache[head].values.insert(cache[head].values.end(), value.begin(), value.end());
    }
  }
}

void Attention::attend(const KvHead& kv, std::span<const float> query, std::size_t positions,
                       std::span<float> out) {
  float* scores = grown(scores_, positions).data();
  for (std::size_t i = 0; i < positions; ++i) {
    const float product = precision_.round(dot(query.data(), kv.keys.data() + i * head_dim_, head_dim_));
    scores[i] = precision_.round(product * scale_);
  }
  const float largest = *std::max_element(scores, scores + positions);
  float sum = 0.0F;
  for (std::size_t i = 0; i < positions; ++i) {
    scores[i] = std::exp(scores[i] - largest);
    sum += scores[i];
  }
  std::fill(out.begin(), out.end(), 0.0F);
  for (std::size_t i = 0; i < positions; ++i) {
    const float probability = precision_.round(scores[i] / sum);
    const float* value = kv.values.data() + i * head_dim_;
    for (std::size_t j = 0; j < out.size(); ++j) out[j] += probability * value[j];
  }
  precision_.round(out);
}

void Attention::forward(const StepRows& step, std::span<const float> in, std::span<float> out) {
  const std::size_t rows = step.sequences.back().first_row + step.sequences.back().rows;
  const std::size_t width = project_in_.out_features();
  project_in_(in, grown(projected_, rows * width));
  const auto attended = grown(attended_, rows * heads_ * head_dim_);
  for (const SequenceRows& sequence : step.sequences) {
    std::vector<KvHead>& cache = caches_[sequence.sequence];
    append(step, sequence, cache);
    for (std::size_t i = 0; i < sequence.rows; ++i) {
      const std::size_t row = sequence.first_row + i;
      const std::span<const float> projected(projected_.data() + row * width, width);
      for (std::size_t head = 0; head < heads_; ++head) {
        const KvHead& kv = cache[(first_head_ + head) / heads_per_kv_ - first_kv_head_];
        const auto query = projected.subspan(head * 2 * head_dim_, head_dim_);
        const auto gate = projected.subspan((head * 2 + 1) * head_dim_, head_dim_);
        const auto result = attended.subspan((row * heads_ + head) * head_dim_, head_dim_);
        attend(kv, query, sequence.position + i + 1, result);
        for (std::size_t j = 0; j < head_dim_; ++j) {
          result[j] = precision_.round(result[j] * precision_.round(sigmoid(gate[j])));
        }
      }
    }
  }
  project_out_(attended, out);
}

}  // namespace mixcomm::runner
