// mixcomm eval: how many word problems a model solves.
#include <fmt/format.h>

#include <memory>

#include "tools/generation.hpp"
#include "tools/machine.hpp"
#include "tools/output.hpp"
#include "tools/problems.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(Each line of the file is an object {"question": "...", "answer": "... #### 42"}, as in GSM8K. A problem is solved if the
number behind the last "#### " of the model's text is that of the answer, commas and $ aside.

Examples:
  mixcomm eval --data models/tiny-qwen3_5-moe/eval.jsonl
  mixcomm eval --data gsm8k_test.jsonl --model ~/models/Qwen3.5-MoE --attn-tp 2 --attn-dp 2 --batch 32 --limit 200
  mixcomm eval --data models/tiny-qwen3_5-moe/eval.jsonl --attn-tp 2 --attn-dp 2 --json result.json)";

struct EvalOptions {
  ModelFlags model;
  std::string data;
  std::size_t limit = SIZE_MAX;
  std::size_t batch = 16;
  std::size_t max_new_tokens = 0;
  std::string json_path;
  RankFlags ranks;
};

bool solved(const Model& model, const Problem& problem, const std::vector<int>& tokens) {
  return final_number(model.tokenizer.decode(tokens)) == problem.expected;
}

Json details(const Model& model, const Problem& problem, const std::vector<int>& tokens) {
  const std::string text = model.tokenizer.decode(tokens);
  const auto got = final_number(text);
  return {{"line", problem.line},
          {"question", problem.question},
          {"expected", problem.expected},
          {"got", got ? Json(*got) : Json()},
          {"right", got == problem.expected},
          {"text", text}};
}

int eval(const EvalOptions& options, const std::string& command_line) {
  const std::vector<Problem> problems = read_problems(options.data, options.limit);
  const std::filesystem::path directory = model_directory(options.model);
  const Model model(directory);
  JsonFile file(this_process_prints() ? options.json_path : "");
  std::vector<std::vector<int>> prompts;
  for (const Problem& problem : problems)
    prompts.push_back(model.tokenizer.encode(question_prompt(problem.question)));

  Progress progress("eval");
  std::size_t right_so_far = 0;
  const GenerationOptions generation{
      .parallelism = parallelism_of(options.model, model.config),
      .algorithm = options.model.algorithm,
      .dtype = options.model.dtype,
      .ranks = options.ranks,
      .max_new_tokens = options.max_new_tokens,
      .batch = options.batch,
      .on_batch = [&](std::size_t first, const std::vector<std::vector<int>>& tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i)
          right_so_far += solved(model, problems[first + i], tokens[i]) ? 1U : 0U;
        progress.update(first + tokens.size(), problems.size(), fmt::format("{} right", right_so_far));
      }};
  const Generation done = generate_on_ranks(model, prompts, generation);
  if (!done.prints) return all_well;

  std::size_t right = 0;
  Json all = Json::array();
  for (std::size_t i = 0; i < problems.size(); ++i) {
    all.push_back(details(model, problems[i], done.tokens[i]));
    right += all.back()["right"].get<bool>() ? 1U : 0U;
  }
  file.write({{"machine", machine()},
              {"command", command_line},
              {"model", directory.string()},
              {"parallelism", to_json(generation.parallelism)},
              {"algorithm", name(options.model.algorithm)},
              {"dtype", name(options.model.dtype)},
              {"exact_match", right},
              {"problems", problems.size()},
              {"latency", done.latency},
              {"details", all}});
  fmt::print("exact match: {} of {} ({:.1f} %)\n", right, problems.size(),
             100.0 * static_cast<double>(right) / static_cast<double>(problems.size()));
  return all_well;
}

}  // namespace

void add_eval(CLI::App& app, Invocation& invocation) {
  auto* sub = app.add_subcommand("eval", "Count the word problems that a model solves");
  sub->footer(examples);
  const auto options = std::make_shared<EvalOptions>();
  add_model_flags(*sub, options->model);
  sub->add_option("--data", options->data, "Problems, one JSON object in each line")
      ->type_name("FILE")
      ->required();
  sub->add_option("--limit", options->limit, "The first so many of them (all)")
      ->check(CLI::Range(1, 1 << 30));
  sub->add_option("--batch", options->batch, "Problems of each DP rank at a time (16)")
      ->check(CLI::Range(1, 1 << 16));
  sub->add_option("--max-new-tokens", options->max_new_tokens,
                  "Tokens of a solution at most (256, if the model has room)")
      ->check(CLI::Range(1, 1 << 24));
  sub->add_option("--json", options->json_path, "Write all details to a file")->type_name("FILE");
  add_rank_flags(*sub, options->ranks);
  sub->callback([&invocation, options] {
    invocation.action = [&invocation, options] { return eval(*options, invocation.command_line); };
  });
}

}  // namespace mixcomm::tools
