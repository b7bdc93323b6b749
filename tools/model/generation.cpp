#include "tools/model/generation.hpp"

#include <algorithm>
#include <memory>

#include "measure/exchange_long.hpp"
#include "runner/decoder.hpp"
#include "runner/generate.hpp"
#include "runner/shard.hpp"
#include "tools/model/step_times.hpp"

namespace mixcomm::tools {
namespace {

using Prompts = std::vector<std::vector<int>>;

constexpr std::size_t default_new_tokens = 256;

/// What one rank alone would find wrong would leave the others waiting.
void check_all(const Model& model, const Prompts& prompts, std::size_t new_tokens) {
  for (std::size_t i = 0; i < prompts.size(); ++i)
    if (const auto why = obstacle(model.config, prompts[i], new_tokens))
      throw InvalidArgument(fmt::format("prompt {} {}", i + 1, *why));
}

/// Which prompts are continued at a time: [first, first + size).
std::vector<runner::Range> batches_of(std::size_t prompts, std::size_t batch, int dp) {
  const std::size_t size = batch == 0 ? prompts : batch * static_cast<std::size_t>(dp);
  std::vector<runner::Range> batches;
  for (std::size_t first = 0; first < prompts; first += size)
    batches.push_back({first, std::min(size, prompts - first)});
  return batches;
}

/// The prefill of the largest batch.
std::size_t most_rows_of(const Prompts& prompts, const std::vector<runner::Range>& batches) {
  std::size_t most = 1;
  for (const runner::Range& batch : batches) {
    std::size_t rows = 0;
    for (std::size_t i = 0; i < batch.size; ++i) rows += prompts[batch.begin + i].size();
    most = std::max(most, rows);
  }
  return most;
}

class RankGeneration {
 public:
  RankGeneration(Bootstrap& bootstrap, const Model& model, const Prompts& prompts,
                 const GenerationOptions& options)
      : bootstrap_(bootstrap),
        prompts_(prompts),
        options_(options),
        batches_(batches_of(prompts.size(), options.batch, options.parallelism.attn_dp)),
        communicator_(bootstrap, {.tp = options.parallelism.attn_tp,
                                  .dp = options.parallelism.attn_dp,
                                  .timeout = options.ranks.timeout()}),
        decoder_(model.config, model.weights, options.parallelism, communicator_,
                 {.dtype = options.dtype,
                  .algorithm = options.algorithm,
                  .max_rows = most_rows_of(prompts, batches_)}),
        generate_options_{
            .max_new_tokens = options.max_new_tokens != 0 ? options.max_new_tokens : default_new_tokens,
            .max_positions = model.config.max_position_embeddings,
            .eos_token_ids = model.config.eos_token_ids,
            .progress = {}} {}

  /// {"tokens": [[...], ...], "latency": {...}}, the same on every rank.
  Json run() {
    tokens_.resize(prompts_.size());
    for (const runner::Range& batch : batches_) run_batch(batch);
    return {{"tokens", tokens_}, {"latency", report_.json()}};
  }

 private:
  void run_batch(const runner::Range& batch) {
    const Grid& grid = communicator_.grid();
    const runner::Range own = runner::share(batch.size, grid.dp.size, grid.dp.member).shifted(batch.begin);
    const auto done = runner::generate(decoder_, communicator_,
                                       std::span(prompts_).subspan(own.begin, own.size), generate_options_);

    const Json mine{{"steps", to_json(rank_steps(done))},
                    {"tokens", grid.tp.member == 0 ? Json(done.tokens) : Json()}};
    std::vector<std::vector<RankStep>> steps;
    std::size_t next = batch.begin;
    for (const std::string& text : exchange_long(bootstrap_, "collecting the continuations", mine.dump())) {
      Json theirs = Json::parse(text);
      steps.push_back(rank_steps_from(theirs["steps"]));
      if (theirs["tokens"].is_null()) continue;
      for (const Json& each : theirs["tokens"]) tokens_[next++] = each.get<std::vector<int>>();
    }
    report_.add(steps);
    if (grid.rank() == 0 && options_.on_batch)
      options_.on_batch(batch.begin, {tokens_.begin() + static_cast<std::ptrdiff_t>(batch.begin),
                                      tokens_.begin() + static_cast<std::ptrdiff_t>(next)});
  }

  Bootstrap& bootstrap_;
  const Prompts& prompts_;
  const GenerationOptions& options_;
  std::vector<runner::Range> batches_;
  Communicator communicator_;
  runner::Decoder decoder_;
  runner::GenerateOptions generate_options_;
  Prompts tokens_;
  LatencyReport report_;
};

}  // namespace

std::optional<std::string> obstacle(const runner::ModelConfig& config, const std::vector<int>& prompt,
                                    std::size_t new_tokens) {
  if (prompt.empty()) return "is empty";
  const std::size_t added = std::max<std::size_t>(new_tokens, 1);
  const std::size_t most = config.max_position_embeddings;
  if (prompt.size() + added > most)
    return fmt::format("has {} tokens; with {} new ones that is more than the {} that the model is made for",
                       prompt.size(), added, most);
  for (const int id : prompt)
    if (id < 0 || static_cast<std::size_t>(id) >= config.vocab_size)
      return fmt::format(
          "has the token id {}, which its tokenizer.json knows, but the model has embeddings for 0 to {} "
          "alone",
          id, config.vocab_size - 1);
  return std::nullopt;
}

Generation generate_on_ranks(const Model& model, const Prompts& prompts, const GenerationOptions& options) {
  check_all(model, prompts, options.max_new_tokens);
  const auto [value, prints] = run_ranks(
      {.world = options.parallelism.world(),
       .processes = options.ranks.processes,
       .timeout = options.ranks.timeout()},
      [&](Bootstrap& bootstrap) { return RankGeneration(bootstrap, model, prompts, options).run(); });
  return {value["tokens"].get<Prompts>(), value["latency"], prints};
}

std::string latency_text(const Json& latency) {
  std::string text = fmt::format("prefill {:.2f} ms", latency["prefill_ms"].get<double>());
  if (latency["decode_steps"].get<int>() == 0) return text;
  return text +
         fmt::format(
             "; between tokens {:.0f} us (p50), {:.0f} us (p99); {:.1f} % of the ranks' time in collectives, "
             "{:.1f} % without waiting for the slowest rank",
             latency["inter_token_p50_us"].get<double>(), latency["inter_token_p99_us"].get<double>(),
             100 * latency["collectives_share"].get<double>(),
             100 * latency["collectives_share_without_waiting"].get<double>());
}

}  // namespace mixcomm::tools
