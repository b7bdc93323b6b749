// `mixcomm demo`: the whole product in three minutes. Decodes word problems on many layouts: composed against
// fused, and norms by themselves against norms within the operations.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <barrier>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "measure/statistics.hpp"
#include "mixcomm/mixcomm.hpp"
#include "runner/generate.hpp"
#include "tools/command/output.hpp"
#include "tools/model/generation.hpp"
#include "tools/model/problems.hpp"
#include "tools/model/prompts.hpp"

namespace mixcomm::tools {
namespace {

using runner::Parallelism;

struct DemoOptions {
  ModelFlags model;
  std::filesystem::path json;
  std::size_t tokens = 48;
  int rounds = 8;
  int most_ranks = 8;
};

/// How the boundaries are crossed.
struct Way {
  const char* name;
  Algorithm algorithm;
  bool norms_apart;
};
constexpr std::size_t way_count = 3;
constexpr std::array<Way, way_count> ways{{{"composed", Algorithm::composed, true},
                                           {"fused", Algorithm::automatic, true},
                                           {"norms_within", Algorithm::automatic, false}}};
using ByWay = std::array<double, way_count>;

/// What one layout showed. Times are medians, in microseconds, by way.
struct Line {
  Parallelism layout;
  ByWay itl_us{};
  ByWay comm_us{};   ///< collectives, with norms_within those too
  ByWay apart_us{};  ///< residuals and norms by themselves
  ByWay share{};     ///< of the steps in which comm_us was measured
  ByWay noise{};     ///< of itl_us: how far the rounds' medians lie apart, relative
  bool tokens_identical = false;

  /// Which part of a token's latency norms within the operations save.
  [[nodiscard]] double saved() const {
    return itl_us[1] > 0 ? (comm_us[1] + apart_us[1] - comm_us[2]) / itl_us[1] : 0;
  }
};

using Tokens = std::vector<std::vector<int>>;

/// What one rank's part of one generation gave.
struct RankRun {
  Tokens tokens;
  std::vector<runner::StepTimes> steps;
};

/// The latest of a time over the ranks.
template <class Time>
runner::Clock::time_point latest(const std::vector<RankRun>& ranks, const Time& time) {
  auto last = time(ranks[0]);
  for (const RankRun& rank : ranks) last = std::max(last, time(rank));
  return last;
}

double microseconds(runner::Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

/// Inter-token latencies of one generation: a step lasts from the end of the one before to its own, on the
/// last rank.
void append_itl(const std::vector<RankRun>& ranks, std::vector<double>& us) {
  const auto end = [&](std::size_t s) {
    return latest(ranks, [s](const RankRun& r) { return r.steps[s].end; });
  };
  for (std::size_t s = 1; s < ranks[0].steps.size(); ++s) us.push_back(microseconds(end(s) - end(s - 1)));
}

/// What each step's collectives (or what is apart from them) took together: each from the last rank's coming
/// to the last rank's leaving. They follow each other, from when all ranks have ended the step before to when
/// all have ended this one, so they are a part of what append_itl() gives.
void append_sums(const std::vector<RankRun>& ranks,
                 std::vector<runner::CommInterval> runner::StepTimes::*which, std::vector<double>& us) {
  for (std::size_t s = 1; s < ranks[0].steps.size(); ++s) {
    runner::Clock::duration sum{};
    for (std::size_t b = 0; b < (ranks[0].steps[s].*which).size(); ++b)
      sum += latest(ranks, [=](const RankRun& r) { return (r.steps[s].*which)[b].end; }) -
             latest(ranks, [=](const RankRun& r) { return (r.steps[s].*which)[b].begin; });
    us.push_back(microseconds(sum));
  }
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

/// The prompts of DP rank d, dealt in turn.
std::vector<std::vector<int>> share(const Tokens& prompts, int d, int dp) {
  std::vector<std::vector<int>> mine;
  for (std::size_t i = static_cast<std::size_t>(d); i < prompts.size(); i += static_cast<std::size_t>(dp))
    mine.push_back(prompts[i]);
  return mine;
}

class Demo {
 public:
  Demo(const DemoOptions& options, const Model& model, Tokens prompts)
      : options_(options), model_(model), prompts_(std::move(prompts)), expected_(tokens_of_one_rank()) {}

  /// What one rank decodes.
  [[nodiscard]] const Tokens& expected() const { return expected_; }

  /// All ways in alternating rounds of one run, so that whatever else the machine does hits them alike. Each
  /// round decodes twice: as an engine would, for the latency, and with the ranks held around each
  /// collective, for its time.
  Line measure(const Parallelism& layout) {
    Line line{.layout = layout, .tokens_identical = true};
    std::vector<RankRun> ranks(static_cast<std::size_t>(layout.world()));
    std::array<std::vector<double>, way_count> itl;
    std::array<std::vector<double>, way_count> comm;
    std::array<std::vector<double>, way_count> apart;
    std::array<std::vector<double>, way_count> held_itl;  // of the rounds of comm
    std::array<std::vector<double>, way_count> round_medians;
    std::barrier held_ranks(layout.world());
    run_threads(layout.world(), [&](Bootstrap& bootstrap) {
      Communicator communicator(bootstrap, {.tp = layout.attn_tp, .dp = layout.attn_dp});
      const auto mine = share(prompts_, communicator.grid().dp.member, layout.attn_dp);
      RankRun& run = ranks[static_cast<std::size_t>(bootstrap.rank())];

      /// Decodes on all ranks, then lets rank 0 look at what they did.
      const auto decode = [&](runner::Decoder& decoder, const auto& look) {
        auto generated = generate(decoder, communicator, mine, {.max_new_tokens = options_.tokens});
        run = {std::move(generated.tokens), std::move(generated.steps)};
        held_ranks.arrive_and_wait();
        if (bootstrap.rank() == 0) {
          line.tokens_identical = line.tokens_identical && tokens_are_expected(ranks, layout);
          look();
        }
        held_ranks.arrive_and_wait();
      };
      const auto decoder = [&](const Way& way, std::function<void()> hold) {
        return runner::Decoder(model_.config, model_.weights, layout, communicator,
                               {.algorithm = way.algorithm,
                                .max_rows = most_rows_in_a_step,
                                .norms_apart = way.norms_apart,
                                .hold = std::move(hold)});
      };
      const auto hold = [&] { held_ranks.arrive_and_wait(); };
      std::array free{decoder(ways[0], {}), decoder(ways[1], {}), decoder(ways[2], {})};
      std::array held{decoder(ways[0], hold), decoder(ways[1], hold), decoder(ways[2], hold)};
      for (int round = -1; round < options_.rounds; ++round)  // the first one warms up
        for (std::size_t i = 0; i < ways.size(); ++i) {
          const std::size_t way = round % 2 == 0 ? i : ways.size() - 1 - i;
          decode(free[way], [&] {
            if (round < 0) return;
            std::vector<double> us;
            append_itl(ranks, us);
            round_medians[way].push_back(median(us));
            itl[way].insert(itl[way].end(), us.begin(), us.end());
          });
          decode(held[way], [&] {
            if (round < 0) return;
            append_sums(ranks, &runner::StepTimes::comm, comm[way]);
            append_sums(ranks, &runner::StepTimes::apart, apart[way]);
            append_itl(ranks, held_itl[way]);
          });
        }
    });
    for (std::size_t way = 0; way < ways.size(); ++way) {
      line.itl_us[way] = median(itl[way]);
      line.comm_us[way] = median(comm[way]);
      line.apart_us[way] = median(apart[way]);
      line.share[way] = sum(comm[way]) / sum(held_itl[way]);
      const auto [low, high] = std::minmax_element(round_medians[way].begin(), round_medians[way].end());
      line.noise[way] = (*high - *low) / line.itl_us[way];
    }
    return line;
  }

 private:
  [[nodiscard]] Tokens tokens_of_one_rank() const {
    Tokens tokens;
    run_threads(1, [&](Bootstrap& bootstrap) {
      Communicator communicator(bootstrap, {});
      runner::Decoder decoder(model_.config, model_.weights, {}, communicator,
                              {.max_rows = most_rows_in_a_step});
      tokens = generate(decoder, communicator, prompts_, {.max_new_tokens = options_.tokens}).tokens;
    });
    return tokens;
  }

  [[nodiscard]] bool tokens_are_expected(const std::vector<RankRun>& ranks, const Parallelism& layout) const {
    for (std::size_t r = 0; r < ranks.size(); ++r)
      if (ranks[r].tokens != share(expected_, static_cast<int>(r) / layout.attn_tp, layout.attn_dp))
        return false;
    return true;
  }

  static constexpr std::size_t most_rows_in_a_step = 2048;

  const DemoOptions& options_;
  const Model& model_;
  Tokens prompts_;
  Tokens expected_;
};

std::vector<Parallelism> layouts(const runner::ModelConfig& config, int most_ranks) {
  std::vector<Parallelism> all;
  for (const auto& [tp, dp] : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}, {4, 2}, {2, 4}})
    for (int moe_tp = 1; moe_tp <= tp * dp; moe_tp *= 2) {
      const Parallelism layout{tp, dp, moe_tp, tp * dp / moe_tp};
      if (layout.world() > most_ranks) continue;
      try {
        check_parallelism(layout, config);
      } catch (const InvalidArgument&) {
        continue;  // this model does not divide that way
      }
      all.push_back(layout);
    }
  return all;
}

Json to_json(const Line& line) {
  Json json = tools::to_json(line.layout);
  for (const auto& [name, values] : {std::pair{"itl_us", line.itl_us},
                                     {"comm_us", line.comm_us},
                                     {"apart_us", line.apart_us},
                                     {"comm_share", line.share}})
    for (std::size_t way = 0; way < ways.size(); ++way) json[name][ways[way].name] = values[way];
  json["norms_within_save"] = line.saved();
  json["tokens_identical"] = line.tokens_identical;
  return json;
}

void print_line(const Line& line) {
  const auto ratio = [](const ByWay& v) { return v[0] > 0 ? fmt::format("{:.2f}", v[1] / v[0]) : "-"; };
  fmt::print(
      "{}x{}   {}x{}   {:12.0f} {:9.0f} {:>6}   {:13.0f} {:9.0f} {:>6}   {:>12}   {:7.0f} {:7.0f} {:>6}   "
      "{}\n",
      line.layout.attn_tp, line.layout.attn_dp, line.layout.moe_tp, line.layout.moe_ep, line.itl_us[0],
      line.itl_us[1], ratio(line.itl_us), line.comm_us[0], line.comm_us[1], ratio(line.comm_us),
      fmt::format("{:.0f} / {:.0f} %", 100 * line.share[0], 100 * line.share[1]),
      line.comm_us[1] + line.apart_us[1], line.comm_us[2], fmt::format("{:.1f} %", 100 * line.saved()),
      line.tokens_identical ? "identical" : "DIFFERENT");
  std::fflush(stdout);
}

/// The verdict below the table. Returns whether all tokens were identical.
bool summarize(const std::vector<Line>& lines) {
  std::vector<double> ratios;
  std::vector<double> saved;
  std::vector<std::string> slower;
  bool identical = true;
  for (const Line& line : lines) {
    identical = identical && line.tokens_identical;
    if (line.layout.attn_tp > 1 && line.layout.attn_dp > 1)
      ratios.push_back(line.comm_us[1] / line.comm_us[0]);
    saved.push_back(line.saved());
    const double noise = std::max({line.noise[0], line.noise[1], 0.02});
    if (line.itl_us[1] > line.itl_us[0] * (1 + noise)) slower.push_back(to_string(line.layout));
  }
  fmt::print("\nTokens: {}.\n",
             identical ? "identical to one rank's on every layout, in all ways" : "DIFFERENT on some layout");
  if (!ratios.empty())
    fmt::print(
        "Collectives, fused / composed, over the {} layouts with attention TP and DP: median {:.2f} (best "
        "{:.2f}, worst {:.2f}).\n",
        ratios.size(), median(ratios), *std::min_element(ratios.begin(), ratios.end()),
        *std::max_element(ratios.begin(), ratios.end()));
  fmt::print(
      "Norms and residuals within the operations save {:.1f} % of a token (median over the layouts; {:.1f} "
      "to {:.1f} %).\n",
      100 * median(saved), 100 * *std::min_element(saved.begin(), saved.end()),
      100 * *std::max_element(saved.begin(), saved.end()));
  fmt::print("Inter-token latency: {}.\n",
             slower.empty() ? "fused is nowhere slower than composed by more than the rounds differ"
                            : fmt::format("fused is slower on {}", fmt::join(slower, "; ")));
  return identical;
}

void print_answers(const Model& model, const std::vector<Problem>& problems, const Tokens& tokens) {
  const auto& eos = model.config.eos_token_ids;
  for (std::size_t i = 0; i < std::min<std::size_t>(3, problems.size()); ++i) {
    const auto end = std::find_first_of(tokens[i].begin(), tokens[i].end(), eos.begin(), eos.end());
    const std::vector<int> answer(tokens[i].begin(), end);
    fmt::print("\nQuestion: {}\nAnswer:{}\n", problems[i].question, model.tokenizer.decode(answer));
  }
}

int demo(const DemoOptions& options) {
  constexpr std::size_t prompt_count = 12;
  JsonFile file(options.json);
  const auto directory = model_directory(options.model);
  const Model model(directory);
  print_notes(model.config.notes);
  const auto problems = read_problems(directory / "eval.jsonl", prompt_count).problems;
  std::vector<std::string> questions;
  questions.reserve(problems.size());
  for (const Problem& problem : problems) questions.push_back(problem.question);
  Tokens prompts;
  for (const std::string& text : prompts_of({}, directory, {}, questions))
    prompts.push_back(model.tokenizer.encode(text));
  Demo runs(options, model, prompts);
  fmt::print("Greedy answers of {} on one rank:\n", directory.filename().string());
  print_answers(model, problems, runs.expected());

  const auto all = layouts(model.config, options.most_ranks);
  fmt::print(
      "\n{} prompts, {} tokens each, fp32; ranks are threads on {} processors. Medians in us. itl: "
      "inter-token latency.\n"
      "comm: one token's collectives, from the last rank's coming to the last one's leaving; measured in "
      "rounds of\n"
      "their own, in which ranks wait for each other around each, so that nothing else runs meanwhile; "
      "share: "
      "of the time\n"
      "of those rounds, with the waits around each. apart: collectives (fused), and residuals and norms by "
      "themselves;\n"
      "within: these in the collectives' epilogues; saved: of a token's latency.\n\n"
      "attn  moe   itl composed     fused  ratio   comm composed     fused  ratio          share     apart  "
      "within  "
      "saved   tokens\n",
      prompts.size(), options.tokens, std::thread::hardware_concurrency());
  std::vector<Line> lines;
  Json report = Json::array();
  {
    Progress progress("demo");
    for (const Parallelism& layout : all) {
      progress.update(lines.size(), all.size(), to_string(layout));
      lines.push_back(runs.measure(layout));
      progress.update(lines.size(), all.size(), to_string(layout));
      print_line(lines.back());
      report.push_back(to_json(lines.back()));
    }
  }
  file.write(report);
  return summarize(lines) ? all_well : check_failed;
}

}  // namespace

void add_demo(CLI::App& app, Invocation& invocation) {
  const auto options = std::make_shared<DemoOptions>();
  Flags flags(app, "demo",
              "Decode word problems on many rank layouts: composed against fused, norms apart against within",
              "Exit code 1 if the tokens of a layout differ from one rank's.\n\nExamples:\n"
              "  mixcomm demo\n"
              "  mixcomm demo --json build/demo.json --most-ranks 4");
  flags.directory("--model", options->model.directory, "Model directory with an eval.jsonl");
  flags.file("--json", options->json, "Write the table to this file, too");
  flags.number("--tokens", options->tokens, {2, 900},
               fmt::format("Tokens per prompt and round ({})", options->tokens));
  flags.number("--rounds", options->rounds, {1, 1000},
               fmt::format("Measured rounds of each way ({})", options->rounds));
  flags.number("--most-ranks", options->most_ranks, {1, 64},
               fmt::format("Leave out larger layouts ({})", options->most_ranks));
  flags.then([options, &invocation] { invocation.action = [options] { return demo(*options); }; });
}

}  // namespace mixcomm::tools
