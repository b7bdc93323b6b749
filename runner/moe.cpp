#include "runner/moe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace mixcomm::runner {
namespace {

/// Two stacked halves (gate over up) of `width` rows each, sliced alike. `first_row` is where they begin in
/// the tensor.
Matrix load_halves(const Shards& shards, const std::string& name, std::initializer_list<std::size_t> shape,
                   Range slice, std::size_t first_row) {
  const std::size_t width = *(shape.begin() + 1) / 2;
  Matrix weight = shards.rows(name, shape, slice.shifted(first_row));
  weight.append(shards.rows(name, shape, slice.shifted(first_row + width)));
  return weight;
}

/// gate_proj, up_proj and down_proj as tensors of their own, under `name`.
GatedMlp load_mlp(const LayerSource& source, const std::string& name, std::size_t width, Range slice) {
  const std::size_t hidden = source.config.hidden_size;
  Matrix gate_up = source.shards.rows(name + "gate_proj.weight", {width, hidden}, slice);
  gate_up.append(source.shards.rows(name + "up_proj.weight", {width, hidden}, slice));
  return {source.products, gate_up,
          source.shards.block(name + "down_proj.weight", {hidden, width}, {0, hidden}, slice)};
}

GatedMlp load_expert(const LayerSource& source, std::size_t expert, Range slice) {
  const std::size_t experts = source.config.num_experts;
  const std::size_t hidden = source.config.hidden_size;
  const std::size_t width = source.config.moe_intermediate_size;
  const std::string name = source.prefix + "mlp.experts.";
  if (!source.shards.contains(name + "gate_up_proj")) {
    return load_mlp(source, fmt::format("{}{}.", name, expert), width, slice);
  }
  const Matrix gate_up = load_halves(source.shards, name + "gate_up_proj", {experts, 2 * width, hidden},
                                     slice, expert * 2 * width);
  return {
      source.products, gate_up,
      source.shards.block(name + "down_proj", {experts, hidden, width}, {expert * hidden, hidden}, slice)};
}

Matrix load_router(const LayerSource& source) {
  const std::size_t hidden = source.config.hidden_size;
  const std::size_t experts = source.config.num_experts;
  Matrix weight = source.shards.rows(source.prefix + "mlp.gate.weight", {experts, hidden}, {0, experts});
  weight.append(source.shards.rows(source.prefix + "mlp.shared_expert_gate.weight", {1, hidden}, {0, 1}));
  return weight;
}

}  // namespace

GatedMlp::GatedMlp(Products& products, const Matrix& gate_up, const Matrix& down)
    : gate_up_(products, gate_up), down_(products, down) {}

void GatedMlp::operator()(std::span<const float> in, std::span<float> out, Scratch& scratch,
                          Precision precision) const {
  const std::size_t width = gate_up_.out_features() / 2;
  const std::size_t rows = out.size() / down_.out_features();
  const auto gate_up = grown(scratch.gate_up, rows * 2 * width);
  const auto hidden = grown(scratch.hidden, rows * width);
  gate_up_(in, gate_up);
  for (std::size_t row = 0; row < rows; ++row) {
    const float* gate = gate_up.data() + row * 2 * width;
    const float* up = gate + width;
    float* product = hidden.data() + row * width;
    for (std::size_t i = 0; i < width; ++i) {
      product[i] = precision.round(precision.round(silu(gate[i])) * up[i]);
    }
  }
  down_(hidden, out);
}

MixtureOfExperts::MixtureOfExperts(const LayerSource& source, const Parallelism& parallelism, int rank)
    : precision_(source.shards.precision()),
      hidden_(source.config.hidden_size),
      experts_(source.config.num_experts),
      experts_per_row_(source.config.num_experts_per_tok),
      first_expert_(share(experts_, parallelism.moe_ep, rank / parallelism.moe_tp).begin),
      router_(source.products, load_router(source)),
      chosen_(experts_per_row_) {
  const Range slice =
      share(source.config.moe_intermediate_size, parallelism.moe_tp, rank % parallelism.moe_tp);
  const std::size_t count = share(experts_, parallelism.moe_ep, rank / parallelism.moe_tp).size;
  local_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) local_.push_back(load_expert(source, first_expert_ + i, slice));
  visits_.resize(count);
  const std::size_t shared_width = source.config.shared_expert_intermediate_size;
  const Range shared_slice = share(shared_width, parallelism.world(), rank);
  if (shared_slice.size > 0) {
    shared_ = load_mlp(source, source.prefix + "mlp.shared_expert.", shared_width, shared_slice);
  }
}

void MixtureOfExperts::route(std::span<const float> in) {
  const std::size_t rows = in.size() / hidden_;
  const std::size_t width = experts_ + 1;
  const auto logits = grown(logits_, rows * width);
  router_(in, logits);
  for (auto& visits : visits_) visits.clear();
  for (std::size_t row = 0; row < rows; ++row) {
    const auto scores = logits.subspan(row * width, experts_);
    // The softmax over all experts cancels in the division by the sum of the chosen ones, but a bf16 model
    // rounds only after that, and so does this.
    const float largest = *std::max_element(scores.begin(), scores.end());
    float all = 0.0F;
    for (float& score : scores) all += score = std::exp(score - largest);
    for (float& score : scores) score /= all;

    float sum = 0.0F;
    for (std::size_t k = 0; k < experts_per_row_; ++k) {
      // The largest that is left; the lowest index wins ties.
      const auto best = std::max_element(scores.begin(), scores.end());
      chosen_[k] = {static_cast<std::size_t>(best - scores.begin()), *best};
      sum += *best;
      *best = -1.0F;  // below every probability: not chosen again
    }
    for (std::size_t k = 0; k < experts_per_row_; ++k) {
      const auto [expert, probability] = chosen_[k];
      if (expert < first_expert_ || expert >= first_expert_ + local_.size()) continue;
      visits_[expert - first_expert_].push_back({row, precision_.round(probability / sum)});
    }
  }
}

void MixtureOfExperts::run_expert(std::size_t expert, std::span<const float> in, std::span<float> out) {
  const std::vector<Visit>& visits = visits_[expert];
  if (visits.empty()) return;
  const auto gathered = grown(gathered_, visits.size() * hidden_);
  const auto produced = grown(produced_, visits.size() * hidden_);
  for (std::size_t i = 0; i < visits.size(); ++i) {
    std::copy_n(in.data() + visits[i].row * hidden_, hidden_, gathered.data() + i * hidden_);
  }
  local_[expert](gathered, produced, scratch_, precision_);
  for (std::size_t i = 0; i < visits.size(); ++i) {
    const float weight = visits[i].weight;
    const float* from = produced.data() + i * hidden_;
    float* to = out.data() + visits[i].row * hidden_;
    for (std::size_t j = 0; j < hidden_; ++j)
      to[j] = precision_.round(to[j] + precision_.round(from[j] * weight));
  }
}

void MixtureOfExperts::add_shared(std::span<const float> in, std::span<float> out) {
  const auto produced = grown(produced_, in.size());
  (*shared_)(in, produced, scratch_, precision_);
  for (std::size_t row = 0; row < in.size() / hidden_; ++row) {
    const float gate = precision_.round(sigmoid(logits_[row * (experts_ + 1) + experts_]));
    const float* from = produced.data() + row * hidden_;
    float* to = out.data() + row * hidden_;
    for (std::size_t j = 0; j < hidden_; ++j)
      to[j] = precision_.round(to[j] + precision_.round(from[j] * gate));
  }
}

void MixtureOfExperts::forward(std::span<const float> in, std::span<float> out) {
  std::fill(out.begin(), out.end(), 0.0F);
  route(in);
  for (std::size_t expert = 0; expert < local_.size(); ++expert) run_expert(expert, in, out);
  if (shared_) add_shared(in, out);
}

}  // namespace mixcomm::runner
