// mixcomm plan: which collective runs at each boundary of a model, what it moves, and why.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>

#include "runner/layouts.hpp"
#include "tools/machine.hpp"
#include "tools/model.hpp"
#include "tools/output.hpp"
#include "tools/traffic.hpp"
#include "tools/tuning_flag.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(Needs the model's config.json alone. `bytes per rank` is what each rank must receive at the least for one step of --rows rows
per DP rank, as in 'mixcomm bench'.

Examples:
  mixcomm plan --attn-tp 2 --attn-dp 2 --rows 4
  mixcomm plan --model ~/models/Qwen3.5-MoE --attn-tp 4 --attn-dp 2 --moe-tp 2 --moe-ep 4 --uneven 7,0
  mixcomm plan --attn-tp 4 --attn-dp 2 --rows 16 --backend cuda
  mixcomm plan --attn-tp 2 --attn-dp 2 --json)";

struct PlanOptions {
  ModelFlags model;
  RowFlags rows{.equal = {1}, .uneven = {}};
  BackendKind backend = BackendKind::cpu;
  bool json = false;
  std::string tuning_path;
  std::optional<TuningTable> tuning;  ///< read from there
};

/// Where rows pass from one module to the next, `count` times in a step.
struct Boundary {
  std::string name;
  Layout from;
  Layout to;
  std::size_t count;
};

std::vector<Boundary> boundaries_of(const runner::ModelConfig& config) {
  using runner::head_in, runner::mixer_in, runner::mixer_out, runner::moe_in, runner::moe_out;
  const std::size_t layers = config.layers.size();
  const auto full = static_cast<std::size_t>(
      std::count(config.layers.begin(), config.layers.end(), runner::LayerKind::full_attention));
  std::vector<Boundary> all = {
      {"embedding -> attention", mixer_in, mixer_in, 1},
      {"full attention -> MoE", mixer_out, moe_in, full},
      {"linear attention -> MoE", mixer_out, moe_in, layers - full},
      {"MoE -> attention of the next layer", moe_out, mixer_in, std::max<std::size_t>(layers, 1) - 1},
      {"MoE -> final norm and LM head", moe_out, head_in, layers > 0 ? 1U : 0U}};
  std::erase_if(all, [](const Boundary& b) { return b.count == 0; });
  return all;
}

/// What the rows of one step are, and who shares them.
struct Step {
  const PlanOptions& options;
  const runner::Parallelism& parallelism;
  const runner::ModelConfig& config;
  std::vector<std::size_t> rows;

  /// Of the tensor that choose() and wire_bytes() ask about.
  [[nodiscard]] std::size_t bytes(Op op) const {
    const std::size_t counted = op == Op::all_reduce
                                    ? *std::max_element(rows.begin(), rows.end())
                                    : std::accumulate(rows.begin(), rows.end(), std::size_t{0});
    return counted * config.hidden_size * size_of(options.model.dtype);
  }
};

Json operation_json(const Transition::Step& operation, const Step& step) {
  Json json{{"operation", name(operation)}};
  if (operation.slice) {
    json["bytes"] = 0;
    json["bytes_per_rank"] = 0;
    return json;
  }
  const auto [tp, dp] = std::pair(step.parallelism.attn_tp, step.parallelism.attn_dp);
  const std::size_t bytes = step.bytes(operation.op);
  json["bytes"] = bytes;
  json["bytes_per_rank"] = std::llround(wire_bytes(operation.op, tp, dp, bytes));
  const Algorithm asked = step.options.model.algorithm;
  const bool automatic = asked == Algorithm::automatic;
  const Circumstances circumstances{
      .op = operation.op,
      .tp = tp,
      .dp = dp,
      .bytes = bytes,
      .symmetric = true,  // as the runner's
      .crowded = step.options.backend == BackendKind::cpu && tp * dp > usable_processors(),
      .backend = step.options.backend,
      .tuning = step.options.tuning ? &*step.options.tuning : nullptr};
  json["algorithm"] = name(automatic ? choose(circumstances) : asked);
  json["why_algorithm"] = automatic ? why_chosen(circumstances) : "--algorithm asks for it";
  return json;
}

Json boundary_json(const Boundary& boundary, const Step& step) {
  const Transition transition =
      collective_for(boundary.from, boundary.to, step.parallelism.attn_tp, step.parallelism.attn_dp);
  Json operations = Json::array();
  for (const Transition::Step& each : transition.steps) operations.push_back(operation_json(each, step));
  return {{"boundary", boundary.name},    {"count", boundary.count},  {"from", to_string(boundary.from)},
          {"to", to_string(boundary.to)}, {"operations", operations}, {"why", transition.why}};
}

/// A plan may be for another machine than this, so that of the table is taken; the rest must fit.
void check_tuning(const PlanOptions& options) {
  if (!options.tuning) return;
  const TuningTable& table = *options.tuning;
  const ModelFlags& model = options.model;
  if (table.backend != options.backend || table.tp != model.attn_tp || table.dp != model.attn_dp)
    throw InvalidArgument(fmt::format(
        "the tuning table is for backend {}, tp {} x dp {}, but the plan for backend {}, tp {} x dp {}; run "
        "'mixcomm "
        "tune' for that, or leave out --tuning",
        name(table.backend), table.tp, table.dp, name(options.backend), model.attn_tp, model.attn_dp));
}

Json plan_json(const PlanOptions& options, const std::filesystem::path& directory) {
  const runner::ModelConfig config = runner::read_model_config(directory);
  const runner::Parallelism parallelism = parallelism_of(options.model, config);
  const auto sweep = options.rows.per_dp_rank(parallelism.attn_dp);
  if (sweep.size() != 1) throw InvalidArgument("--rows takes one count here: a plan is for one step");
  const Step step{options, parallelism, config, sweep[0]};
  Json boundaries = Json::array();
  for (const Boundary& boundary : boundaries_of(config)) boundaries.push_back(boundary_json(boundary, step));
  double total = 0;
  for (const Json& boundary : boundaries)
    for (const Json& operation : boundary["operations"])
      total += boundary["count"].get<double>() * operation["bytes_per_rank"].get<double>();
  return {{"model", directory.string()},
          {"layers", config.layers.size()},
          {"hidden", config.hidden_size},
          {"dtype", name(options.model.dtype)},
          {"parallelism", to_json(parallelism)},
          {"rows", step.rows},
          {"boundaries", boundaries},
          {"bytes_per_rank", std::llround(total)}};
}

std::string bytes_text(double bytes) {
  if (bytes < 1024) return fmt::format("{:.0f} B", bytes);
  if (bytes < 1024 * 1024) return fmt::format("{:.4g} KiB", bytes / 1024);
  return fmt::format("{:.4g} MiB", bytes / (1024 * 1024));
}

void print_plan(const Json& plan) {
  const Json& p = plan["parallelism"];
  fmt::print("{}: {} layers, hidden {}, {}\n", plan["model"].get<std::string>(), plan["layers"].get<int>(),
             plan["hidden"].get<int>(), plan["dtype"].get<std::string>());
  fmt::print("attention: tp {} x dp {}; experts: tp {} x ep {}; rows of each DP rank: {}\n",
             p["attn_tp"].get<int>(), p["attn_dp"].get<int>(), p["moe_tp"].get<int>(), p["moe_ep"].get<int>(),
             fmt::join(plan["rows"].get<std::vector<std::size_t>>(), ", "));
  for (const Json& boundary : plan["boundaries"]) {
    fmt::print("\n{} ({}x per step)\n", boundary["boundary"].get<std::string>(),
               boundary["count"].get<int>());
    fmt::print("  from         {}\n  to           {}\n", boundary["from"].get<std::string>(),
               boundary["to"].get<std::string>());
    if (boundary["operations"].empty()) fmt::print("  nothing to send\n");
    for (const Json& operation : boundary["operations"]) {
      fmt::print("  operation    {}", operation["operation"].get<std::string>());
      if (operation.contains("algorithm"))
        fmt::print(" of {}, {} per rank\n  algorithm    {}: {}", bytes_text(operation["bytes"].get<double>()),
                   bytes_text(operation["bytes_per_rank"].get<double>()),
                   operation["algorithm"].get<std::string>(), operation["why_algorithm"].get<std::string>());
      fmt::print("\n");
    }
    fmt::print("  why          {}\n", boundary["why"].get<std::string>());
  }
  fmt::print("\none step: {} per rank\n", bytes_text(plan["bytes_per_rank"].get<double>()));
}

}  // namespace

void add_plan(CLI::App& app, Invocation& invocation) {
  auto* sub = app.add_subcommand("plan", "Show which collective runs at each boundary of a model, and why");
  sub->footer(examples);
  const auto options = std::make_shared<PlanOptions>();
  add_model_flags(*sub, options->model);
  add_row_flags(*sub, options->rows);
  add_named(*sub, "--backend", options->backend, backend_from_name,
            "What would run it: cpu (default) or cuda");
  sub->add_flag("--json", options->json, "As one JSON object");
  add_tuning_flag(*sub, options->tuning_path);
  sub->callback([&invocation, options] {
    invocation.action = [options] {
      options->tuning = tuning_table(options->tuning_path);
      check_tuning(*options);
      const Json plan = plan_json(*options, model_directory(options->model));
      if (options->json)
        fmt::print("{}\n", dump(plan));
      else
        print_plan(plan);
      return all_well;
    };
  });
}

}  // namespace mixcomm::tools
