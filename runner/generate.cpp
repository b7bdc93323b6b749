#include "runner/generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace mixcomm::runner {
namespace {

/// A prompt that is still being continued.
struct Active {
  std::size_t prompt;
  int last_token;
};

/// Every DP rank's row count of the next step. Collective. The counts go through the communicator as one fp32
/// value per DP rank, which is exact below 2^24.
void exchange_counts(Communicator& communicator, std::size_t mine, std::vector<std::size_t>& counts) {
  if (communicator.grid().dp.size == 1) {
    counts.assign(1, mine);
    return;
  }
  constexpr std::size_t too_many = std::size_t{1} << 24U;
  if (mine >= too_many)
    throw InvalidArgument(fmt::format("generate: {} rows in one step are too many", mine));
  const auto own = static_cast<float>(mine);
  std::vector<float> all(static_cast<std::size_t>(communicator.grid().dp.size));
  communicator.all_gather(tensor(&own, 1, 1), tensor(all.data(), all.size(), 1), 1);
  counts.assign(all.begin(), all.end());
}

/// The lowest index of the largest logit.
int argmax(std::span<const float> logits) {
  return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

Generated generate(Decoder& decoder, Communicator& communicator, std::span<const std::vector<int>> prompts,
                   const GenerateOptions& options) {
  Generated result;
  result.tokens.resize(prompts.size());
  if (options.max_new_tokens == 0) return result;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) throw InvalidArgument(fmt::format("generate: prompt {} has no tokens", i));
  }
  std::vector<Active> active(prompts.size());
  for (std::size_t i = 0; i < active.size(); ++i) active[i].prompt = i;
  const auto is_eos = [&options](int token) {
    return std::find(options.eos_token_ids.begin(), options.eos_token_ids.end(), token) !=
           options.eos_token_ids.end();
  };

  std::vector<SequenceInput> inputs;
  std::vector<std::size_t> counts;
  for (std::size_t step = 0;; ++step) {
    inputs.clear();
    std::size_t rows = 0;
    for (const Active& each : active) {
      const std::span<const int> tokens =
          step == 0 ? std::span<const int>(prompts[each.prompt]) : std::span<const int>(&each.last_token, 1);
      inputs.push_back({each.prompt, tokens});
      rows += tokens.size();
    }
    const auto begin = Clock::now();
    exchange_counts(communicator, rows, counts);
    const CommInterval exchange{begin, counts.size() == 1 ? begin : Clock::now()};
    if (std::accumulate(counts.begin(), counts.end(), std::size_t{0}) == 0) break;

    const auto logits = decoder.step(inputs, counts);
    result.steps.push_back(decoder.times());
    result.exchanges.push_back(exchange);
    const std::size_t vocab_size = active.empty() ? 0 : logits.size() / active.size();
    for (std::size_t i = 0; i < active.size(); ++i) {
      active[i].last_token = argmax(logits.subspan(i * vocab_size, vocab_size));
      result.tokens[active[i].prompt].push_back(active[i].last_token);
    }
    std::erase_if(active, [&](const Active& each) {
      const std::size_t added = result.tokens[each.prompt].size();
      const std::size_t positions = prompts[each.prompt].size() + added;
      const bool full = options.max_positions != 0 && positions >= options.max_positions;
      const bool done = is_eos(each.last_token) || added == options.max_new_tokens || full;
      if (done) decoder.release(each.prompt);
      return done;
    });
    if (options.progress) options.progress(step, active.size());
  }
  return result;
}

}  // namespace mixcomm::runner
