// mixcomm plan: which collective runs at each boundary of a model, what it moves and takes, and why.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include "runner/json_file.hpp"
#include "tools/command/machine.hpp"
#include "tools/command/model.hpp"
#include "tools/command/output.hpp"
#include "tools/command/tuning_flag.hpp"
#include "tools/plan/plan_compare.hpp"
#include "tools/plan/plan_picture.hpp"
#include "tools/plan/plan_report.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(Needs a model's config.json alone, of any model with experts (Qwen3.5-MoE, Qwen3-MoE, Qwen3-Next, Qwen3-VL-MoE, DeepSeek-V3 and
V3.2, Kimi K2, GLM-4 MoE, gpt-oss, MiniMax-M2, Mixtral, and others with their fields); what is assumed is printed. Shapes of published
models lie in models/shapes. Plans are for up to 4,096 ranks: nothing runs.
`per rank` is what each rank receives in one step of --rows rows per DP rank, with the algorithm that is named. Times are
predicted from constants that are printed with their sources. `finish` is what the operation does with the rows that it has
summed, the residual and the norm of the module behind it, in place of kernels by themselves; each of these would take a
call's time at the least. What ranks of several nodes run is shown in its two levels, `within` each node and `across` them: complete
rows leave a node once for each other node, partial sums once in fp32; latency + bytes / bandwidth of what shares a network card.
`not yet` is what the library does not run, and why. --constants FILE.json takes others, of 'mixcomm tune' or your own:
{"links": [{"name": "mine", "call_us": 1.5, "wait_us": 1.1, "gbps": 450, "source": "measured"}]}.

Examples:
  mixcomm plan --attn-tp 2 --attn-dp 2 --rows 4
  mixcomm plan --model models/shapes/qwen3.5-397b-a17b --attn-tp 4 --attn-dp 2 --moe-tp 2 --moe-ep 4 --rows 16 --backend cuda
  mixcomm plan --model models/shapes/deepseek-v3 --attn-tp 2 --attn-dp 4 --mlp-tp 1 --uneven 7,0,3,3 --link nvlink5
  mixcomm plan --model models/shapes/deepseek-v3 --attn-tp 2 --attn-dp 4 --backend cuda --quantize per_128_columns
  mixcomm plan --model models/shapes/qwen3.5-397b-a17b --gpus 8 --batch 64 --compare
  mixcomm plan --model models/shapes/deepseek-v3 --attn-dp 320 --moe-ep 320 --redundant-experts 64 --backend cuda
  mixcomm plan --model models/shapes/deepseek-v3 --attn-tp 8 --attn-dp 4 --ranks-per-node 8 --network-latency-us 2 --network-gbps 200
  mixcomm plan --attn-tp 2 --attn-dp 2 --json --picture plan.svg)";

/// Of a number that was not given.
constexpr double unset = -1;

struct PlanFlags {
  ModelFlags model;
  RowFlags rows{.equal = {1}, .uneven = {}};
  BackendKind backend = BackendKind::cpu;
  int mlp_tp = 0;
  std::size_t redundant_experts = 0;
  ModelChoices choices;
  RowsWay way = RowsWay::exact;
  std::string link;
  std::string network = "network400";
  double network_latency_us = unset;  ///< in place of the network's
  double network_gbps = unset;        ///< likewise, in Gb/s
  int per_node = 0;                   ///< 0: 8 on GPUs, all on CPUs
  int nics_per_node = 0;              ///< 0: one for each GPU, one for all CPU ranks of a node
  std::filesystem::path constants;
  std::filesystem::path picture;
  int gpus = 0;
  std::size_t batch = 64;
  bool compare = false;
  bool json = false;
  std::string tuning_path;
  std::optional<TuningTable> tuning;  ///< read from there
};

void take_costs(CostModel& model, double wait_us, double read_gbps, std::string_view origin) {
  model.link.name = "tuned";
  model.link.call_us = 0;  // the waits that were measured hold it
  model.link.wait_us = wait_us;
  model.link.gbps = read_gbps;
  model.link.source = fmt::format("mixcomm tune, {}", origin);
}

/// A plan may be for another machine than this, so that of the table is taken; the rest must fit.
void take_tuning(const PlanFlags& flags, CostModel& model) {
  if (!flags.tuning) return;
  const TuningTable& table = *flags.tuning;
  const auto [tp, dp] = std::pair(flags.model.attn_tp, flags.model.attn_dp);
  if (flags.compare)
    throw InvalidArgument(
        "a tuning table is for one grid, and --compare looks at many; give its costs with --constants");
  if (table.backend != flags.backend || table.tp != tp || table.dp != dp)
    throw InvalidArgument(fmt::format(
        "the tuning table is for backend {}, tp {} x dp {}, but the plan for backend {}, tp {} x dp {}; run "
        "'mixcomm tune' for that, or leave out --tuning",
        name(table.backend), table.tp, table.dp, name(flags.backend), tp, dp));
  model.tuning = &table;
  if (flags.constants.empty() && table.costs.read_gbps > 0)
    take_costs(model, table.costs.wait_us, table.costs.read_gbps, flags.tuning_path);
}

/// Those that a file has take the place of known ones: of the link, unless its name is that of the network.
void read_constants(const std::filesystem::path& path, CostModel& model) {
  constexpr std::size_t most_bytes = std::size_t{1} << 20U;
  const runner::Json document = runner::read_json_file(path, most_bytes);
  const runner::JsonView root(document, path.string());
  const runner::Range<double> range{.min = 0, .max = 1e9};
  if (const auto measured = root.find("costs")) {  // a table of mixcomm tune
    take_costs(model, measured->at("wait_us").as_number(range),
               measured->at("read_gbps").as_number({.min = 1e-6, .max = 1e9}), path.string());
    return;
  }
  const runner::JsonView links = root.at("links");
  for (std::size_t i = 0; i < links.as_array().size(); ++i) {
    const runner::JsonView each = links.element(i);
    const std::string& name = each.at("name").as_string();
    LinkConstants& link = name == model.network.name ? model.network : model.link;
    link.name = name;
    link.call_us = each.at("call_us").as_number(range);
    link.wait_us = each.at("wait_us").as_number(range);
    link.gbps = each.at("gbps").as_number({.min = 1e-6, .max = 1e9});
    link.source = each.has("source") ? each.at("source").as_string() : path.string();
  }
}

/// What the flags say of it goes before what a name or a file does.
void take_network(const PlanFlags& flags, CostModel& model) {
  constexpr double bits = 8;
  if (flags.network_latency_us != unset) {
    model.network.wait_us = flags.network_latency_us;
    model.network.source += "; latency: --network-latency-us";
  }
  if (flags.network_gbps != unset) {
    model.network.gbps = flags.network_gbps / bits;
    model.network.source += "; bandwidth: --network-gbps";
  }
}

CostModel cost_model(const PlanFlags& flags, int world) {
  CostModel model;
  const bool cpu = flags.backend == BackendKind::cpu && !flags.compare;
  model.link = link_from_name(!flags.link.empty() ? flags.link : cpu ? "shm" : "nvlink4");
  model.network = link_from_name(flags.network);
  if (!flags.constants.empty()) read_constants(flags.constants, model);
  take_tuning(flags, model);
  take_network(flags, model);
  const bool on_cpus = model.link.backend == BackendKind::cpu;
  constexpr int gpus_per_node = 8;
  model.per_node = flags.per_node != 0 ? flags.per_node : on_cpus ? world : gpus_per_node;
  model.nics_per_node = flags.nics_per_node != 0 ? flags.nics_per_node : on_cpus ? 1 : 0;
  if (on_cpus) model.link.crowded = std::min(world, model.per_node) > processors_at_start();
  return model;
}

std::filesystem::path model_path(const ModelFlags& flags) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(flags.directory, ignored)) return flags.directory;
  return model_directory(flags);
}

/// Copies of experts are experts to what shares them out.
void add_redundant_experts(ModelShape& shape, std::size_t copies) {
  if (copies == 0) return;
  const std::size_t own = shape.config.num_experts;
  shape.config.num_experts += copies;
  shape.assumed.push_back(
      fmt::format("{} experts and {} copies of some, {} together, in equal parts on the EP ranks", own,
                  copies, own + copies));
}

Parallelism parallelism_for(const PlanFlags& flags, const runner::ModelConfig& config) {
  try {
    return parallelism_of(flags.model, config);
  } catch (const InvalidArgument& error) {
    const auto ep = static_cast<std::size_t>(std::max(flags.model.moe_ep, 1));
    const std::size_t over = config.num_experts % ep;
    if (over == 0) throw;
    throw InvalidArgument(fmt::format("{}; with --redundant-experts {} it may be {}", error.what(),
                                      flags.redundant_experts + ep - over, ep));
  }
}

int plan(const PlanFlags& flags) {
  const std::filesystem::path path = model_path(flags.model);
  PlanRequest request{.shape = read_model_shape(path),
                      .choices = flags.choices,
                      .parallelism = {},
                      .rows = {},
                      .way = flags.way,
                      .dtype = flags.model.dtype,
                      .algorithm = flags.model.algorithm,
                      .model = {}};
  add_redundant_experts(request.shape, flags.redundant_experts);
  const auto assume_large = [&request](int world) {
    if (world <= max_ranks) return;
    request.shape.assumed.push_back(fmt::format(
        "operations over more than {} ranks, which no communicator holds yet, are like those over "
        "fewer",
        max_ranks));
  };
  Json result{{"model", path.string()}};
  if (flags.compare) {
    if (flags.gpus == 0) throw InvalidArgument("--compare needs --gpus");
    assume_large(flags.gpus);
    request.parallelism.mlp_tp = flags.mlp_tp;
    request.model = cost_model(flags, flags.gpus);
    result.update(compare_json(request, flags.gpus, flags.batch));
    if (flags.json)
      fmt::print("{}\n", dump(result));
    else
      print_comparison(result);
    return all_well;
  }
  request.parallelism = parallelism_for(flags, request.shape.config);
  request.parallelism.mlp_tp = flags.mlp_tp;
  check(request.parallelism);
  assume_large(request.parallelism.world());
  const auto sweep = flags.rows.per_dp_rank(request.parallelism.attn_dp);
  if (sweep.size() != 1) throw InvalidArgument("--rows takes one count here: a plan is for one step");
  request.rows = sweep[0];
  request.model = cost_model(flags, request.parallelism.world());
  result.update(plan_json(request));
  if (!flags.picture.empty()) write_picture(result, flags.picture);
  if (flags.json)
    fmt::print("{}\n", dump(result));
  else
    print_plan(result);
  return all_well;
}

ModelChoices::Head head_from_name(std::string_view name) {
  if (name == "whole") return ModelChoices::Head::whole;
  if (name == "sharded") return ModelChoices::Head::sharded;
  if (name == "world") return ModelChoices::Head::world;
  throw InvalidArgument(fmt::format("no LM head is named '{}'; there are: whole, sharded, world", name));
}

ModelChoices::Shared shared_from_name(std::string_view name) {
  if (name == "summed") return ModelChoices::Shared::summed;
  if (name == "apart") return ModelChoices::Shared::apart;
  throw InvalidArgument(fmt::format("a shared expert is not joined '{}'; there are: summed, apart", name));
}

}  // namespace

void add_plan(CLI::App& app, Invocation& invocation) {
  Flags flags(app, "plan", "Show which collective runs at each boundary of a model, and why", examples);
  const auto options = std::make_shared<PlanFlags>();
  const Integers ranks{1, max_planned_ranks};
  options->model.most_ranks = max_planned_ranks;
  add_model_flags(flags, options->model);
  flags.number("--mlp-tp", options->mlp_tp, ranks,
               "TP ranks of dense MLPs (as --attn-tp); 1: fully data-parallel");
  flags.number("--redundant-experts", options->redundant_experts, {0, 1 << 14},
               "Copies of experts, so that EP ranks have equal parts (0)");
  add_row_flags(flags, options->rows);
  add_named(flags, "--rows-way", options->way, rows_way_from_name, "exact (default), max_len or sum_len");
  add_named(flags, "--head", options->choices.head, head_from_name,
            "LM head: whole (default), sharded over attn_tp, or over the world");
  add_named(flags, "--shared", options->choices.shared, shared_from_name,
            "Shared experts: summed with the routed ones (default), or apart");
  add_named(flags, "--quantize", options->choices.quantize, quantize_from_name,
            "What MLPs and experts take behind their norm: none (default), or FP8 per_token, "
            "per_128_columns, fixed");
  flags.yes("--sharded-embedding", options->choices.sharded_embedding,
            "The embedding's vocabulary over attn_tp");
  add_named(flags, "--backend", options->backend, backend_from_name,
            "What would run it: cpu (default) or cuda");
  flags.name("--link", options->link, "NAME", "What connects ranks (shm, or nvlink4 with --backend cuda)");
  flags.name("--network", options->network, "NAME", "What connects nodes (network400)");
  flags.number("--ranks-per-node", options->per_node, ranks,
               "Ranks of one node (8; with --backend cpu all): operations on several run in two levels");
  flags.number("--nics-per-node", options->nics_per_node, ranks,
               "Network cards of a node (one for each rank; with --backend cpu one)");
  flags.real("--network-latency-us", options->network_latency_us, "MICROSECONDS", {0, 1e6},
             "Between nodes, in place of the network's (5)");
  flags.real("--network-gbps", options->network_gbps, "GBIT_PER_S", {1e-3, 1e6},
             "Gb/s of a network card in each direction, in place of the network's (400)");
  flags.file("--constants", options->constants, "Constants of links, in place of known ones");
  flags.file("--picture", options->picture, "Write it as .svg, or as Graphviz .dot");
  const Flag compare =
      flags.yes("--compare", options->compare, "All spreads over --gpus, the quickest first");
  flags.number("--gpus", options->gpus, ranks, "--compare: how many").needs(compare);
  flags.number("--batch", options->batch, {1, most_rows}, "--compare: rows of all DP ranks together (64)")
      .needs(compare);
  flags.yes("--json", options->json, "As one JSON object");
  add_tuning_flag(flags, options->tuning_path);
  flags.then([&invocation, options] {
    invocation.action = [options] {
      options->tuning = tuning_table(options->tuning_path);
      return plan(*options);
    };
  });
}

}  // namespace mixcomm::tools
