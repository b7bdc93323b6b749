#include "tools/generation.hpp"

#include <algorithm>
#include <memory>

#include "runner/decoder.hpp"
#include "runner/generate.hpp"
#include "runner/shard.hpp"
#include "tools/exchange_long.hpp"
#include "tools/step_times.hpp"

namespace mixcomm::tools {
namespace {

using Prompts = std::vector<std::vector<int>>;

constexpr std::size_t default_new_tokens = 256;

/// Checks all prompts and returns how many tokens to add to each. What one rank alone would find wrong would
/// leave the others waiting.
std::size_t new_tokens(const Model& model, const Prompts& prompts, std::size_t wanted) {
  std::size_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) throw InvalidArgument(fmt::format("prompt {} is empty", i + 1));
    longest = std::max(longest, prompts[i].size());
  }
  const std::size_t most = model.config.max_position_embeddings;
  if (longest + std::max<std::size_t>(wanted, 1) > most)
    throw InvalidArgument(fmt::format(
        "the longest prompt has {} tokens; with {} new ones that is more than the {} that the model "
        "is made for",
        longest, std::max<std::size_t>(wanted, 1), most));
  return wanted != 0 ? wanted : std::min(default_new_tokens, most - longest);
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
        generate_options_{.max_new_tokens = options.max_new_tokens,
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

    const Json mine{{"steps", to_json(done.steps)},
                    {"tokens", grid.tp.member == 0 ? Json(done.tokens) : Json()}};
    std::vector<Json> steps;
    std::size_t next = batch.begin;
    for (const std::string& text : exchange_long(bootstrap_, "collecting the continuations", mine.dump())) {
      Json theirs = Json::parse(text);
      steps.push_back(std::move(theirs["steps"]));
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

std::string question_prompt(std::string_view question) {
  return fmt::format("Question: {}\nAnswer:", question);
}

Generation generate_on_ranks(const Model& model, const Prompts& prompts, const GenerationOptions& options) {
  GenerationOptions filled = options;
  filled.max_new_tokens = new_tokens(model, prompts, options.max_new_tokens);
  const auto [value, prints] = run_ranks(
      {.world = options.parallelism.world(),
       .processes = options.ranks.processes,
       .timeout = options.ranks.timeout()},
      [&](Bootstrap& bootstrap) { return RankGeneration(bootstrap, model, prompts, filled).run(); });
  return {value["tokens"].get<Prompts>(), value["latency"], prints};
}

std::string latency_text(const Json& latency) {
  std::string text = fmt::format("prefill {:.2f} ms", latency["prefill_ms"].get<double>());
  if (latency["decode_steps"].get<int>() == 0) return text;
  return text + fmt::format(
                    "; between tokens {:.0f} us (p50), {:.0f} us (p99); {:.1f} % of it in collectives, "
                    "{:.1f} % without "
                    "waiting for the slowest rank",
                    latency["inter_token_p50_us"].get<double>(), latency["inter_token_p99_us"].get<double>(),
                    100 * latency["collectives_share"].get<double>(),
                    100 * latency["collectives_share_without_waiting"].get<double>());
}

}  // namespace mixcomm::tools
