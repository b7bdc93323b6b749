// mixcomm eval: how many word problems a model solves.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "tools/command/machine.hpp"
#include "tools/command/output.hpp"
#include "tools/model/generation.hpp"
#include "tools/model/plain_number.hpp"
#include "tools/model/problems.hpp"
#include "tools/model/prompts.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(Each line of the file is an object {"question": "...", "answer": "... #### 42"}, as in GSM8K. Two measures compare numbers,
6.00 with 06, and "$1,234.50" with 1234.5:
  exact match   the number behind the last "####" of the model's text
  last number   the last number anywhere in it, for models that were not shown the form
A line whose answer is no plain number (6/7, 6e3), or whose question is too long for the model, is left out and named at the end;
then the exit code is 1.

--shots N shows the first N problems of the file, with their answers, before each of the others, and asks the others alone.

Examples:
  mixcomm eval --data models/tiny-qwen3_5-moe/eval.jsonl
  mixcomm eval --data gsm8k_test.jsonl --model ~/models/Qwen3.5-MoE --attn-tp 2 --attn-dp 2 --batch 32 --shots 5 --limit 200
  mixcomm eval --data gsm8k_test.jsonl --model ~/models/Qwen3.5-MoE --chat --chat-option enable_thinking=false
  mixcomm eval --data models/tiny-qwen3_5-moe/eval.jsonl --attn-tp 2 --attn-dp 2 --json result.json)";

struct EvalOptions {
  ModelFlags model;
  PromptFlags prompting;
  std::string data;
  std::size_t limit = SIZE_MAX;
  std::size_t shots = 0;
  std::size_t batch = 16;
  std::size_t max_new_tokens = 0;
  std::string json_path;
  RankFlags ranks;
};

/// What is asked, what is shown before it, and what cannot be asked.
struct Work {
  std::vector<Problem> problems;
  std::vector<std::vector<int>> prompts;  ///< of each problem
  std::vector<LeftOut> left_out;          ///< by line
  std::size_t lines = 0;                  ///< of problems, left out or not
};

Problems read_file(const EvalOptions& options) {
  Problems read = read_problems(options.data, options.limit, options.shots);
  if (read.problems.size() <= options.shots)
    throw InvalidArgument(fmt::format("--shots {}: {} has {} problems, which leaves none to ask",
                                      options.shots, options.data, read.problems.size()));
  return read;
}

Work prepare(const EvalOptions& options, Problems read, const std::filesystem::path& directory,
             const Model& model) {
  std::vector<Shot> shots;
  for (std::size_t i = 0; i < options.shots; ++i)
    shots.push_back({read.problems[i].question, read.problems[i].answer});
  read.problems.erase(read.problems.begin(),
                      read.problems.begin() + static_cast<std::ptrdiff_t>(shots.size()));
  std::vector<std::string> questions;
  for (const Problem& problem : read.problems) questions.push_back(problem.question);
  const std::vector<std::string> texts = prompts_of(options.prompting, directory, shots, questions);

  Work work{{}, {}, std::move(read.left_out), read.problems.size()};
  work.lines += work.left_out.size();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::vector<int> prompt = model.tokenizer.encode(texts[i]);
    if (const auto why = obstacle(model.config, prompt, options.max_new_tokens)) {
      work.left_out.push_back({read.problems[i].line, fmt::format("makes a prompt that {}", *why)});
      continue;
    }
    work.problems.push_back(std::move(read.problems[i]));
    work.prompts.push_back(std::move(prompt));
  }
  std::sort(work.left_out.begin(), work.left_out.end(),
            [](const LeftOut& a, const LeftOut& b) { return a.line < b.line; });
  // Of what could not be asked, rather than of what is none.
  const auto first = std::find_if(work.left_out.begin(), work.left_out.end(),
                                  [](const LeftOut& each) { return each.why.starts_with("makes a prompt"); });
  if (work.problems.empty())
    throw InvalidArgument(fmt::format(
        "{}:{}: the line {}; none of the others that were to be asked{} can be{}", options.data, first->line,
        first->why, options.limit == SIZE_MAX ? "" : fmt::format(" (--limit {})", options.limit),
        options.shots == 0
            ? ""
            : fmt::format("; each shows {} problems first: give fewer --shots", options.shots)));
  return work;
}

struct Answer {
  std::string text;
  std::optional<std::string> marked;
  std::optional<std::string> last;
};

Answer answer_of(const Model& model, const EvalOptions& options, const std::vector<int>& tokens) {
  Answer answer{model.tokenizer.decode(tokens), {}, {}};
  const std::string_view part = answer_part(answer.text, options.prompting);
  answer.marked = marked_number(part);
  answer.last = last_number(part);
  return answer;
}

Json details(const Problem& problem, const Answer& answer) {
  const auto json = [](const std::optional<std::string>& number) { return number ? Json(*number) : Json(); };
  return {{"line", problem.line},
          {"question", problem.question},
          {"expected", problem.expected},
          {"got", json(answer.marked)},
          {"right", answer.marked == problem.expected},
          {"last_number", json(answer.last)},
          {"last_number_right", answer.last == problem.expected},
          {"text", answer.text}};
}

Json left_out_json(const std::vector<LeftOut>& left_out) {
  Json all = Json::array();
  for (const LeftOut& each : left_out) all.push_back({{"line", each.line}, {"why", each.why}});
  return all;
}

void print_measure(std::string_view measure, std::size_t right, std::size_t problems) {
  fmt::print("{}: {} of {} ({:.1f} %)\n", measure, right, problems,
             100.0 * static_cast<double>(right) / static_cast<double>(problems));
}

void print_left_out(const EvalOptions& options, const Work& work) {
  if (work.left_out.empty()) return;
  fmt::print("left out, and counted nowhere above: {} of {} problems\n", work.left_out.size(), work.lines);
  for (const LeftOut& each : work.left_out)
    fmt::print("  {}:{}: the line {}\n", options.data, each.line, each.why);
}

int eval(const EvalOptions& options, const std::string& command_line) {
  Problems read = read_file(options);
  const std::filesystem::path directory = model_directory(options.model);
  const Model model(directory);
  print_notes(model.config.notes);
  const Work work = prepare(options, std::move(read), directory, model);
  const std::vector<Problem>& problems = work.problems;
  JsonFile file(this_process_prints() ? options.json_path : "");

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
          right_so_far +=
              answer_of(model, options, tokens[i]).marked == problems[first + i].expected ? 1U : 0U;
        progress.update(first + tokens.size(), problems.size(), fmt::format("{} right", right_so_far));
      }};
  const Generation done = generate_on_ranks(model, work.prompts, generation);
  const int code = work.left_out.empty() ? all_well : check_failed;
  if (!done.prints) return code;

  std::size_t right = 0;
  std::size_t last_right = 0;
  Json all = Json::array();
  for (std::size_t i = 0; i < problems.size(); ++i) {
    all.push_back(details(problems[i], answer_of(model, options, done.tokens[i])));
    right += all.back()["right"].get<bool>() ? 1U : 0U;
    last_right += all.back()["last_number_right"].get<bool>() ? 1U : 0U;
  }
  file.write({{"machine", machine()},
              {"command", command_line},
              {"model", directory.string()},
              {"parallelism", to_json(generation.parallelism)},
              {"algorithm", name(options.model.algorithm)},
              {"dtype", name(options.model.dtype)},
              {"shots", options.shots},
              {"chat", options.prompting.chat},
              {"exact_match", right},
              {"last_number", last_right},
              {"problems", problems.size()},
              {"left_out", left_out_json(work.left_out)},
              {"latency", done.latency},
              {"details", all}});
  print_measure("exact match", right, problems.size());
  print_measure("last number", last_right, problems.size());
  print_left_out(options, work);
  return code;
}

}  // namespace

void add_eval(CLI::App& app, Invocation& invocation) {
  Flags flags(app, "eval", "Count the word problems that a model solves", examples);
  const auto options = std::make_shared<EvalOptions>();
  add_model_flags(flags, options->model);
  flags.file("--data", options->data, "Problems, one JSON object in each line").required();
  flags.number("--limit", options->limit, {1, 1 << 30},
               "The first so many of them, behind those that are shown (all)");
  flags.number("--shots", options->shots, {0, 1 << 16},
               "Problems shown with their answers before each of the others (0)");
  add_prompt_flags(flags, options->prompting);
  flags.number("--batch", options->batch, {1, 1 << 16}, "Problems of each DP rank at a time (16)");
  flags.number("--max-new-tokens", options->max_new_tokens, {1, 1 << 24},
               "Tokens of a solution at most (256, or as many as a question leaves room for)");
  flags.file("--json", options->json_path, "Write all details to a file");
  add_rank_flags(flags, options->ranks);
  flags.then([&invocation, options] {
    invocation.action = [&invocation, options] { return eval(*options, invocation.command_line); };
  });
}

}  // namespace mixcomm::tools
