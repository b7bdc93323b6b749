// mixcomm decode: continues prompts.
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "runner/git_lfs.hpp"
#include "tools/command/output.hpp"
#include "tools/model/generation.hpp"
#include "tools/model/prompts.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(A prompt is put to the model as "Question: PROMPT\nAnswer:"; with --chat as a message in the model's chat template; with --raw
as it is. Prompts are dealt out to the DP ranks in contiguous blocks; with more DP ranks than prompts some stay idle.

Examples:
  mixcomm decode --prompt "Tom has 12 apples. He buys 30 more. How many apples does Tom have now?"
  mixcomm decode --attn-tp 2 --attn-dp 2 --prompt "3 boxes hold 4 pens each. How many pens are there?" --prompt "..."
  mixcomm decode --model ~/models/Qwen3.5-MoE --attn-tp 4 --moe-ep 4 --prompt-file prompts.txt --raw --json
  mixcomm decode --model ~/models/Qwen3.5-MoE --chat --chat-option enable_thinking=false --prompt "What is 12 * 30?"
  mpirun -n 4 mixcomm decode --attn-tp 2 --attn-dp 2 --prompt "...")";

struct DecodeOptions {
  ModelFlags model;
  std::vector<std::string> prompts;
  std::string prompt_file;
  std::size_t max_new_tokens = 0;
  bool raw = false;
  PromptFlags prompting;
  bool json = false;
  RankFlags ranks;
};

std::vector<std::string> read_prompts(const DecodeOptions& options) {
  std::vector<std::string> prompts = options.prompts;
  if (!options.prompt_file.empty()) {
    runner::refuse_lfs_pointer(std::filesystem::path(options.prompt_file));
    std::ifstream file(options.prompt_file);
    if (!file)
      throw InvalidArgument(fmt::format("cannot read {}: {}", options.prompt_file, std::strerror(errno)));
    for (std::string line; std::getline(file, line);)
      if (!line.empty()) prompts.push_back(line);
    if (file.bad())
      throw InvalidArgument(fmt::format("cannot read {}: {}", options.prompt_file, std::strerror(errno)));
  }
  if (prompts.empty()) throw InvalidArgument("there is no prompt; give one with --prompt or --prompt-file");
  return prompts;
}

int decode(const DecodeOptions& options) {
  const std::vector<std::string> prompts = read_prompts(options);
  const std::filesystem::path directory = model_directory(options.model);
  const Model model(directory);
  print_notes(model.config.notes);
  GenerationOptions generation{.parallelism = parallelism_of(options.model, model.config),
                               .algorithm = options.model.algorithm,
                               .dtype = options.model.dtype,
                               .ranks = options.ranks,
                               .max_new_tokens = options.max_new_tokens,
                               .batch = 0,
                               .on_batch = {}};
  const std::vector<std::string> texts =
      options.raw ? prompts : prompts_of(options.prompting, directory, {}, prompts);
  std::vector<std::vector<int>> ids;
  ids.reserve(texts.size());
  for (const std::string& text : texts) ids.push_back(model.tokenizer.encode(text));
  const Generation done = generate_on_ranks(model, ids, generation);
  if (!done.prints) return all_well;

  Json continuations = Json::array();
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::string text = model.tokenizer.decode(done.tokens[i]);
    continuations.push_back({{"prompt", prompts[i]}, {"continuation", text}, {"tokens", done.tokens[i]}});
    if (!options.json) fmt::print("{}{}\n\n", texts[i], text);
  }
  if (options.json)
    fmt::print("{}\n", dump({{"model", directory.string()},
                             {"parallelism", to_json(generation.parallelism)},
                             {"algorithm", name(options.model.algorithm)},
                             {"dtype", name(options.model.dtype)},
                             {"continuations", continuations},
                             {"latency", done.latency}}));
  else
    fmt::print("{}; {}\n", to_string(generation.parallelism), latency_text(done.latency));
  return all_well;
}

}  // namespace

void add_decode(CLI::App& app, Invocation& invocation) {
  Flags flags(app, "decode", "Continue prompts with a model that is spread over ranks", examples);
  const auto options = std::make_shared<DecodeOptions>();
  add_model_flags(flags, options->model);
  flags.texts("--prompt", options->prompts, "TEXT", "A prompt; may be given several times");
  flags.file("--prompt-file", options->prompt_file, "A file with a prompt in each line");
  flags.number("--max-new-tokens", options->max_new_tokens, {1, 1 << 24},
               "Tokens to add to each prompt at most (256, or as many as it leaves room for)");
  const Flag raw = flags.yes("--raw", options->raw, "Take prompts as they are");
  add_prompt_flags(flags, options->prompting).excludes(raw);
  flags.yes("--json", options->json, "As one JSON object");
  add_rank_flags(flags, options->ranks);
  flags.then([&invocation, options] { invocation.action = [options] { return decode(*options); }; });
}

}  // namespace mixcomm::tools
