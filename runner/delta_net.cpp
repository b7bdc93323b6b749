#include "runner/delta_net.hpp"

#include <algorithm>
#include <cmath>

namespace mixcomm::runner {
namespace {

/// Which rows of the model's tensors belong to this rank.
struct Heads {
  Heads(const ModelConfig& config, const Team& tp)
      : keys(share(config.linear_num_key_heads, tp.size, tp.member)),
        values(keys.times(config.linear_num_value_heads / config.linear_num_key_heads)),
        key_rows(keys.times(config.linear_key_head_dim)),
        value_rows(values.times(config.linear_value_head_dim)),
        all_key_rows(config.linear_num_key_heads * config.linear_key_head_dim),
        all_value_rows(config.linear_num_value_heads * config.linear_value_head_dim) {}

  /// q, k and v lie one after the other, each with all its heads.
  [[nodiscard]] std::size_t all_channels() const { return 2 * all_key_rows + all_value_rows; }
  [[nodiscard]] std::size_t channels() const { return 2 * key_rows.size + value_rows.size; }

  Range keys;
  Range values;  ///< value heads per key head = repeat_interleave: neighbours share a key head
  Range key_rows;
  Range value_rows;
  std::size_t all_key_rows;
  std::size_t all_value_rows;
};

/// The rows of q, k and v that belong to this rank, from a tensor with a row per channel.
Matrix load_channels(const LayerSource& source, const Heads& heads, std::string_view name,
                     std::initializer_list<std::size_t> shape) {
  const std::string full = source.prefix + "linear_attn." + std::string(name);
  Matrix weight = source.shards.rows(full, shape, heads.key_rows);
  weight.append(source.shards.rows(full, shape, heads.key_rows.shifted(heads.all_key_rows)));
  weight.append(source.shards.rows(full, shape, heads.value_rows.shifted(2 * heads.all_key_rows)));
  return weight;
}

Matrix load_in(const LayerSource& source, const Heads& heads) {
  const std::size_t hidden = source.config.hidden_size;
  const std::string name = source.prefix + "linear_attn.";
  Matrix weight = load_channels(source, heads, "in_proj_qkv.weight", {heads.all_channels(), hidden});
  weight.append(
      source.shards.rows(name + "in_proj_z.weight", {heads.all_value_rows, hidden}, heads.value_rows));
  const std::size_t value_heads = source.config.linear_num_value_heads;
  weight.append(source.shards.rows(name + "in_proj_b.weight", {value_heads, hidden}, heads.values));
  weight.append(source.shards.rows(name + "in_proj_a.weight", {value_heads, hidden}, heads.values));
  return weight;
}

Matrix load_out(const LayerSource& source, const Heads& heads) {
  const std::size_t hidden = source.config.hidden_size;
  return source.shards.block(source.prefix + "linear_attn.out_proj.weight", {hidden, heads.all_value_rows},
                             {0, hidden}, heads.value_rows);
}

/// Transposed, so that the loop over channels is the inner one.
std::vector<float> load_conv(const LayerSource& source, const Heads& heads) {
  const std::size_t kernel = source.config.linear_conv_kernel_dim;
  const Matrix weight = load_channels(source, heads, "conv1d.weight", {heads.all_channels(), 1, kernel});
  std::vector<float> transposed(weight.values.size());
  for (std::size_t channel = 0; channel < weight.rows; ++channel) {
    for (std::size_t tap = 0; tap < kernel; ++tap) {
      transposed[tap * weight.rows + channel] = weight.values[channel * kernel + tap];
    }
  }
  return transposed;
}

std::vector<float> load_per_head(const LayerSource& source, const Heads& heads, std::string_view name) {
  return source.shards.vector(source.prefix + "linear_attn." + std::string(name),
                              source.config.linear_num_value_heads, heads.values);
}

/// out = x / |x| * scale
void normalize(std::span<const float> x, float scale, std::span<float> out) {
  const float inverse = 1.0F / std::sqrt(dot(x.data(), x.data(), x.size()) + 1e-6F);
  for (std::size_t i = 0; i < x.size(); ++i) out[i] = x[i] * inverse * scale;
}

}  // namespace

DeltaNet::DeltaNet(const LayerSource& source, const Team& tp)
    : precision_(source.shards.precision()),
      key_heads_(Heads(source.config, tp).keys.size),
      value_heads_(Heads(source.config, tp).values.size),
      key_dim_(source.config.linear_key_head_dim),
      value_dim_(source.config.linear_value_head_dim),
      channels_(Heads(source.config, tp).channels()),
      kernel_(source.config.linear_conv_kernel_dim),
      project_in_(source.products, load_in(source, {source.config, tp})),
      project_out_(source.products, load_out(source, {source.config, tp})),
      norm_(source.shards.vector(source.prefix + "linear_attn.norm.weight", value_dim_),
            source.config.rms_norm_eps, precision_),
      conv_weight_(load_conv(source, {source.config, tp})),
      decay_(load_per_head(source, {source.config, tp}, "A_log")),
      dt_bias_(load_per_head(source, {source.config, tp}, "dt_bias")),
      query_(key_dim_ * key_heads_),
      key_(key_dim_ * key_heads_),
      delta_(value_dim_) {
  for (float& decay : decay_) decay = std::exp(decay);
}

void DeltaNet::convolve(const SequenceRows& sequence, Memory& memory) {
  const std::size_t width = project_in_.out_features();
  const std::size_t past = kernel_ - 1;
  // Past inputs and the new ones, one after the other.
  const auto inputs = grown(mixed_, (past + sequence.rows) * channels_);
  std::copy(memory.conv.begin(), memory.conv.end(), inputs.begin());
  for (std::size_t row = 0; row < sequence.rows; ++row) {
    const float* from = projected_.data() + (sequence.first_row + row) * width;
    std::copy_n(from, channels_, inputs.data() + (past + row) * channels_);
  }
  std::copy_n(inputs.end() - static_cast<std::ptrdiff_t>(past * channels_), past * channels_,
              memory.conv.begin());
  for (std::size_t row = 0; row < sequence.rows; ++row) {
    float* out = projected_.data() + (sequence.first_row + row) * width;
    std::fill_n(out, channels_, 0.0F);
    for (std::size_t tap = 0; tap < kernel_; ++tap) {
      const float* x = inputs.data() + (row + tap) * channels_;
      const float* weight = conv_weight_.data() + tap * channels_;
      for (std::size_t channel = 0; channel < channels_; ++channel)
        out[channel] += x[channel] * weight[channel];
    }
    for (std::size_t channel = 0; channel < channels_; ++channel) {
      out[channel] = precision_.round(silu(precision_.round(out[channel])));
    }
  }
}

void DeltaNet::recur(std::span<float> row, Memory& memory, std::span<float> out) {
  const std::size_t all_keys = key_heads_ * key_dim_;
  const float scale = 1.0F / std::sqrt(static_cast<float>(key_dim_));
  for (std::size_t head = 0; head < key_heads_; ++head) {
    const std::size_t at = head * key_dim_;
    normalize(row.subspan(at, key_dim_), scale, {query_.data() + at, key_dim_});
    normalize(row.subspan(all_keys + at, key_dim_), 1.0F, {key_.data() + at, key_dim_});
  }
  const auto values = row.subspan(2 * all_keys, value_heads_ * value_dim_);
  const auto gates = row.subspan(channels_, value_heads_ * value_dim_);
  const auto b = row.subspan(channels_ + gates.size(), value_heads_);
  const auto a = row.subspan(channels_ + gates.size() + value_heads_, value_heads_);
  for (std::size_t head = 0; head < value_heads_; ++head) {
    const std::size_t key_head = head / (value_heads_ / key_heads_);
    const float* q = query_.data() + key_head * key_dim_;
    const float* k = key_.data() + key_head * key_dim_;
    const float* v = values.data() + head * value_dim_;
    float* state = memory.recurrent.data() + head * key_dim_ * value_dim_;
    float* delta = delta_.data();
    const auto o = out.subspan(head * value_dim_, value_dim_);
    const float beta = precision_.round(sigmoid(b[head]));
    const float decay = std::exp(-decay_[head] * softplus(a[head] + dt_bias_[head]));

    std::fill_n(delta, value_dim_, 0.0F);
    for (std::size_t i = 0; i < key_dim_; ++i) {
      float* s = state + i * value_dim_;
      for (std::size_t j = 0; j < value_dim_; ++j) {
        s[j] *= decay;
        delta[j] += s[j] * k[i];
      }
    }
    for (std::size_t j = 0; j < value_dim_; ++j) delta[j] = (v[j] - delta[j]) * beta;
    std::fill(o.begin(), o.end(), 0.0F);
    for (std::size_t i = 0; i < key_dim_; ++i) {
      float* s = state + i * value_dim_;
      for (std::size_t j = 0; j < value_dim_; ++j) {
        s[j] += k[i] * delta[j];
        o[j] += s[j] * q[i];
      }
    }
    precision_.round(o);
    norm_(o, gates.subspan(head * value_dim_, value_dim_));
  }
}

void DeltaNet::forward(const StepRows& step, std::span<const float> in, std::span<float> out) {
  const std::size_t rows = step.sequences.back().first_row + step.sequences.back().rows;
  const std::size_t width = project_in_.out_features();
  const std::size_t out_width = value_heads_ * value_dim_;
  const auto projected = grown(projected_, rows * width);
  project_in_(in, projected);
  const auto result = grown(result_, rows * out_width);
  for (const SequenceRows& sequence : step.sequences) {
    Memory& memory = states_[sequence.sequence];
    memory.conv.resize((kernel_ - 1) * channels_);
    memory.recurrent.resize(value_heads_ * key_dim_ * value_dim_);
    convolve(sequence, memory);
    for (std::size_t row = sequence.first_row; row < sequence.first_row + sequence.rows; ++row) {
      recur(projected.subspan(row * width, width), memory, result.subspan(row * out_width, out_width));
    }
  }
  project_out_(result, out);
}

}  // namespace mixcomm::runner
