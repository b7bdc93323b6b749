#include "runner/decoder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "runner/attention.hpp"
#include "runner/checkpoint.hpp"
#include "runner/decoder_state.hpp"
#include "runner/delta_net.hpp"
#include "runner/layouts.hpp"
#include "runner/shard.hpp"

namespace mixcomm::runner {
namespace {

BoundaryNorm load_norm(const LayerSource& source, std::string_view name) {
  return {source.shards.vector(source.prefix + std::string(name), source.config.hidden_size),
          source.config.rms_norm_eps, source.shards.precision()};
}

DecoderLayer load_layer(const LayerSource& source, const DecoderSource& decoder, const Grid& grid,
                        LayerKind kind) {
  std::unique_ptr<Mixer> mixer;
  if (kind == LayerKind::full_attention) {
    mixer = std::make_unique<Attention>(source, grid.tp);
  } else {
    mixer = std::make_unique<DeltaNet>(source, grid.tp);
  }
  return {load_norm(source, "input_layernorm.weight"), std::move(mixer),
          load_norm(source, "post_attention_layernorm.weight"),
          MixtureOfExperts(source, decoder.parallelism, grid.rank())};
}

/// Checks what the members' constructors rely on, and hands the communicator through.
Communicator& checked(const DecoderSource& source, Communicator& communicator) {
  const Parallelism& wanted = source.parallelism;
  check_parallelism(wanted, source.config);
  check_checkpoint(source.config, source.weights);
  const Grid& grid = communicator.grid();
  if (grid.tp.size != wanted.attn_tp || grid.dp.size != wanted.attn_dp) {
    throw InvalidArgument(
        fmt::format("attn_tp {} x attn_dp {} is asked for, but the communicator is a grid of tp {} x dp {}; "
                    "make it with the same",
                    wanted.attn_tp, wanted.attn_dp, grid.tp.size, grid.dp.size));
  }
  if (source.options.dtype == DType::fp16) {
    throw InvalidArgument("DecoderOptions::dtype is fp16; the decoder computes in fp32 or bf16");
  }
  if (source.options.max_rows == 0)
    throw InvalidArgument("DecoderOptions::max_rows is 0; it must be at least 1");
  return communicator;
}

}  // namespace

Decoder::State::State(const DecoderSource& source, Communicator& communicator)
    : config(source.config),
      options(source.options),
      precision(options.dtype),
      grid(checked(source, communicator).grid()),
      products(precision),
      embedding(Shards(source.weights, precision), config.vocab_size, config.hidden_size),
      final_norm(Shards(source.weights, precision).vector("norm.weight", config.hidden_size),
                 config.rms_norm_eps, precision),
      head(products, Shards(source.weights, precision)
                         .head(config.vocab_size, config.hidden_size, config.tie_word_embeddings)),
      angles(config.rotary_dim, config.rope_theta, precision),
      communicators(communicator),
      boundaries(LayerPlan(modules_of(config), source.parallelism), communicators,
                 {.max_rows = options.max_rows, .hidden = config.hidden_size, .dtype = options.dtype}),
      after_mixer(communicator, options.max_rows, config.hidden_size, options),
      after_moe(communicator, options.max_rows, config.hidden_size, options),
      residual(options.max_rows * config.hidden_size * size_of(options.dtype)) {
  const Shards shards(source.weights, precision);
  layers.reserve(config.layers.size());
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    layers.push_back(
        load_layer({config, shards, products, fmt::format("layers.{}.", i)}, source, grid, config.layers[i]));
  }
}

void Decoder::State::check_step(std::span<const SequenceInput> inputs,
                                std::span<const std::size_t> rows) const {
  if (rows.size() != static_cast<std::size_t>(grid.dp.size)) {
    throw InvalidArgument(
        fmt::format("step: {} row counts for {} DP ranks; give one for each", rows.size(), grid.dp.size));
  }
  const std::size_t all = std::accumulate(rows.begin(), rows.end(), std::size_t{0});
  if (all > options.max_rows) {
    throw InvalidArgument(fmt::format(
        "step: {} rows of all DP ranks together, but DecoderOptions::max_rows is {}; set it to at least {}",
        all, options.max_rows, all));
  }
  std::size_t tokens = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const SequenceInput& input = inputs[i];
    if (input.tokens.empty())
      throw InvalidArgument(fmt::format("step: input {} has no tokens; leave it out", i));
    for (const int token : input.tokens) {
      if (token >= 0 && static_cast<std::size_t>(token) < config.vocab_size) continue;
      throw InvalidArgument(fmt::format("step: input {} has token {}; the vocabulary has 0 to {}", i, token,
                                        config.vocab_size - 1));
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (inputs[j].sequence != input.sequence) continue;
      throw InvalidArgument(fmt::format("step: inputs {} and {} are both of sequence {}; join their tokens",
                                        j, i, input.sequence));
    }
    const auto held = lengths.find(input.sequence);
    const std::size_t length = (held == lengths.end() ? 0 : held->second) + input.tokens.size();
    if (config.max_position_embeddings > 0 && length > config.max_position_embeddings) {
      throw InvalidArgument(fmt::format("step: sequence {} would hold {} tokens; the model is made for {}",
                                        input.sequence, length, config.max_position_embeddings));
    }
    tokens += input.tokens.size();
  }
  const std::size_t own = rows[static_cast<std::size_t>(grid.dp.member)];
  if (tokens != own) {
    throw InvalidArgument(
        fmt::format("step: {} tokens, but rows[{}] of this DP rank says {}", tokens, grid.dp.member, own));
  }
}

void Decoder::State::begin_step(std::span<const SequenceInput> inputs, std::span<const std::size_t> rows) {
  step_rows = boundaries.rows(rows);
  own_rows = 0;
  sequences.clear();
  const std::size_t hidden = config.hidden_size;
  const std::size_t count = boundaries.range(Rows::by_dp_rank, *step_rows).count;
  const auto embedded = grown(own_mixed, count * hidden);
  for (const SequenceInput& input : inputs) {
    std::size_t& length = lengths[input.sequence];
    sequences.push_back({input.sequence, own_rows, input.tokens.size(), length});
    length += input.tokens.size();
    for (const int token : input.tokens) {
      embedding.look_up(static_cast<std::size_t>(token), embedded.subspan(own_rows * hidden, hidden));
      ++own_rows;
    }
  }
  angles.set(sequences);
  after_mixer.cross(
      boundaries, boundaries.before_attention(0),
      {embedded, grown(own_normed, count * hidden), *step_rows, norm_before(0), residual.data()}, nullptr);
}

void Decoder::State::run_layer(std::size_t index) {
  DecoderLayer& layer = layers[index];
  const std::size_t hidden = config.hidden_size;
  const auto own = grown(own_normed, own_rows * hidden);
  const auto mixed = grown(own_mixed, own_rows * hidden);
  if (own_rows > 0) layer.mixer->forward({sequences, angles}, own, mixed);
  const auto all = grown(all_normed, step_rows->total() * hidden);
  after_mixer.cross(boundaries, boundaries.before_mlp(index),
                    {mixed, all, *step_rows, layer.moe_norm, residual.data()}, &times);

  const auto moe = grown(all_moe, step_rows->total() * hidden);
  layer.moe.forward(all, moe);
  after_moe.cross(boundaries, boundaries.after_mlp(index),
                  {moe, own, *step_rows, norm_before(index + 1), residual.data()}, &times);
}

std::span<const float> Decoder::State::finish_step(std::size_t inputs, bool all_positions) {
  const std::size_t hidden = config.hidden_size;
  const std::size_t wanted = all_positions ? own_rows : inputs;
  std::span<const float> normed = grown(own_normed, own_rows * hidden);
  if (!all_positions) {
    const auto last = grown(last_normed, inputs * hidden);
    for (std::size_t i = 0; i < inputs; ++i) {
      const std::size_t row = sequences[i].first_row + sequences[i].rows - 1;
      std::copy_n(normed.begin() + static_cast<std::ptrdiff_t>(row * hidden), hidden,
                  last.begin() + static_cast<std::ptrdiff_t>(i * hidden));
    }
    normed = last;
  }
  const auto out = grown(logits, wanted * config.vocab_size);
  head(normed, out);
  return out;
}

Decoder::Decoder(const ModelConfig& config, const Safetensors& weights, const Parallelism& parallelism,
                 Communicator& communicator, const DecoderOptions& options) {
  const SingleThreaded single_threaded;
  state_ = std::make_unique<State>(DecoderSource{config, weights, parallelism, options}, communicator);
}

Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

std::span<const float> Decoder::step(std::span<const SequenceInput> inputs, std::span<const std::size_t> rows,
                                     bool all_positions) {
  State& state = *state_;
  state.check_step(inputs, rows);
  const SingleThreaded single_threaded;
  state.times.comm.clear();
  state.times.apart.clear();
  state.times.begin = Clock::now();
  state.begin_step(inputs, rows);
  for (std::size_t i = 0; i < state.layers.size(); ++i) state.run_layer(i);
  const auto logits = state.finish_step(inputs.size(), all_positions);
  state.times.end = Clock::now();
  return logits;
}

void Decoder::release(std::size_t sequence) {
  state_->lengths.erase(sequence);
  for (DecoderLayer& layer : state_->layers) layer.mixer->release(sequence);
}

const StepTimes& Decoder::times() const {
  return state_->times;
}

}  // namespace mixcomm::runner
