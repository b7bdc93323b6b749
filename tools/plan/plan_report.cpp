// A plan in words and in JSON.
#include "tools/plan/plan_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "mixcomm/plan.hpp"
#include "tools/command/model.hpp"

namespace mixcomm::tools {
namespace {

/// The boundaries of a model that are the same, once.
struct Kind {
  const Boundary* boundary;
  std::size_t count;
  bool logits;
};

/// What is done with rows behind their sum, as text.
std::string finish_text(const Boundary& boundary) {
  const auto& finish = boundary.finish;
  if (!finish) return "";
  return fmt::format("{} {} {} {} {}", finish->adds, finish->keeps, name(finish->residual),
                     name(finish->quantize), finish->within);
}

std::vector<Kind> kinds_of(const LayerPlan& plan) {
  std::vector<Kind> kinds;
  const auto all = plan.boundaries();
  for (const Boundary& each : all) {
    const auto same = std::find_if(kinds.begin(), kinds.end(), [&](const Kind& kind) {
      return kind.boundary->name == each.name && kind.boundary->transition.from == each.transition.from &&
             kind.boundary->transition.to == each.transition.to &&
             finish_text(*kind.boundary) == finish_text(each);
    });
    if (same == kinds.end())
      kinds.push_back({&each, 1, &each == &all.back()});
    else
      ++same->count;
  }
  return kinds;
}

class Report {
 public:
  explicit Report(const PlanRequest& request)
      : request_(request),
        rows_(request.rows, request.parallelism, request.way),
        options_(plan_options(request)) {}

  [[nodiscard]] LayerPlan plan() const {
    return {modules_of(request_.shape, request_.parallelism, request_.choices), request_.parallelism,
            options_};
  }

  /// The steps of a transition, and what they take together.
  struct Steps {
    Json operations = Json::array();
    double us = 0;
    double bytes = 0;
  };
  [[nodiscard]] Steps steps_of(const std::vector<Step>& steps, bool logits) const {
    Steps result;
    for (const Step& step : steps) {
      result.operations.push_back(operation(step, logits));
      result.us += result.operations.back()["us"].get<double>();
      result.bytes += result.operations.back()["bytes_per_rank"].get<double>();
    }
    return result;
  }

  /// A boundary: its own transition, then those of what is added with operations of its own.
  [[nodiscard]] Json boundary(const Kind& kind) const {
    const Boundary& b = *kind.boundary;
    const bool composed = request_.algorithm == Algorithm::composed;
    const auto& steps = b.transition.steps;
    Steps own = steps_of(composed ? in_two_calls(steps) : steps, kind.logits);
    const Steps two = steps_of(in_two_calls(steps), kind.logits);
    double us = own.us;
    double two_us = two.us;
    double bytes = own.bytes;
    Json addends = Json::array();
    for (const Addend& each : b.addends) {
      const Steps way = steps_of(each.way.steps, false);
      us += way.us;
      two_us += way.us;
      bytes += way.bytes;
      addends.push_back({{"name", each.name}, {"added", name(each.added)}, {"operations", way.operations}});
    }
    return {{"boundary", b.name},
            {"count", kind.count},
            {"from", to_string(b.transition.from)},
            {"to", to_string(b.transition.to)},
            {"operations", own.operations},
            {"addends", addends},
            {"finish", finish(b)},
            {"why", b.transition.why},
            {"us", us},
            {"bytes_per_rank", bytes},
            {"two_calls", {{"operations", two.operations}, {"us", two_us}}}};
  }

 private:
  /// What is done behind the sum, null for nothing, and what kernels by themselves would take at the least.
  [[nodiscard]] Json finish(const Boundary& b) const {
    if (!b.finish) return nullptr;
    Json steps = Json::array();
    if (b.finish->adds) steps.push_back("add");
    steps.push_back("rms_norm");
    if (b.finish->quantize != Quantize::none)
      steps.push_back(fmt::format("fp8 {}", name(b.finish->quantize)));
    const int kernels = b.finish->separate_kernels(b.transition);
    const double call_us = request_.model.link.call_us;
    return {{"steps", steps},
            {"within", b.finish->within ? Json(name(b.transition.steps.back())) : Json()},
            {"residual", name(b.finish->residual)},
            {"kept", b.finish->keeps},
            {"separate_kernels", kernels},
            {"saved_us", b.finish->within ? kernels * call_us : 0.0}};
  }

  static PlanOptions plan_options(const PlanRequest& request) {
    PlanOptions options{
        .traffic = {request.rows, request.shape.config.hidden_size * size_of(request.dtype), request.dtype},
        .model = request.model};
    if (request.way == RowsWay::max_len)
      options.traffic.rows.assign(request.rows.size(),
                                  *std::max_element(request.rows.begin(), request.rows.end()));
    return options;
  }

  [[nodiscard]] Json rows_of(int width) const {
    const std::vector<std::size_t> counts = rows_.counts(width, request_.parallelism.world() / width, 0);
    if (std::equal(counts.begin() + 1, counts.end(), counts.begin())) return counts[0];
    return counts;
  }

  [[nodiscard]] Json operation(const Step& step, bool logits) const {
    Json json{{"operation", name(step)},
              {"rows", {{"from", rows_of(step.before.width)}, {"to", rows_of(step.after.width)}}},
              {"bytes", 0},
              {"bytes_per_rank", 0.0},
              {"us", 0.0}};
    if (!step.communicates()) return json;
    PlanOptions options = options_;
    if (logits) options.traffic.row_bytes = request_.shape.config.vocab_size * size_of(request_.dtype);
    const Operation o = operation_of(step, request_.parallelism, options);
    const bool forced =
        request_.algorithm == Algorithm::one_shot || request_.algorithm == Algorithm::two_shot;
    const Prediction p = predict(o, options.model, forced ? request_.algorithm : Algorithm::automatic);
    const Grid team = grid_of(Grid::of(o.tp, o.dp, 0), shape_of(o.op).team);
    json["grid"] = to_string(step.grid);
    json["ranks"] = step.grid.tp * step.grid.dp;
    json["bytes"] = o.bytes;
    json["bytes_per_rank"] = p.bytes_per_rank;
    json["us"] = p.us;
    json["waits"] = p.waits;
    json["algorithm"] = name(p.algorithm);
    const LinkConstants& link = options.model.link;
    const bool across = p.across.nodes > 1;
    json["link"] = across ? options.model.network.name : link.name;
    json["across_nodes"] = across ? to_json(p.across) : Json();
    json["why_algorithm"] = forced   ? "--algorithm asks for it"
                            : across ? "within each node, by what lies there"
                                     : why_chosen({.op = o.op,
                                                   .tp = team.tp.size,
                                                   .dp = team.dp.size,
                                                   .bytes = o.bytes,
                                                   .symmetric = true,
                                                   .crowded = link.crowded,
                                                   .backend = link.backend});
    return json;
  }

  static Json to_json(const AcrossNodes& across) {
    return {{"nodes", across.nodes},
            {"before", {{"what", across.before}, {"us", across.before_us}}},
            {"after", {{"what", across.after}, {"us", across.after_us}}},
            {"bytes_per_rank", across.bytes_per_rank},
            {"bytes_per_node", across.bytes_per_node},
            {"partial_bytes_per_node", across.partial_bytes_per_node},
            {"messages", across.messages},
            {"us", across.us},
            {"not_yet", across.not_yet.empty() ? Json() : Json(across.not_yet)}};
  }

  const PlanRequest& request_;
  RowPlan rows_;
  PlanOptions options_;
};

Json totals_of(const Json& boundaries) {
  double us = 0;
  double two_us = 0;
  double bytes = 0;
  double saved_us = 0;
  for (const Json& each : boundaries) {
    if (!each["finish"].is_null())
      saved_us += each["count"].get<double>() * each["finish"]["saved_us"].get<double>();
    const auto count = each["count"].get<double>();
    us += count * each["us"].get<double>();
    two_us += count * each["two_calls"]["us"].get<double>();
    bytes += count * each["bytes_per_rank"].get<double>();
  }
  return {{"us", us},
          {"two_calls_us", two_us},
          {"finish_saved_us", saved_us},
          {"bytes_per_rank", std::llround(bytes)}};
}

Json boundaries_of(const PlanRequest& request) {
  const Report report(request);
  const LayerPlan plan = report.plan();
  Json boundaries = Json::array();
  for (const Kind& kind : kinds_of(plan)) boundaries.push_back(report.boundary(kind));
  return boundaries;
}

std::string rows_text(const Json& rows) {
  return rows.is_array() ? fmt::format("[{}]", fmt::join(rows.get<std::vector<std::size_t>>(), ", "))
                         : fmt::format("{}", rows.get<std::size_t>());
}

void print_within(const Json& level) {
  if (level["us"].get<double>() > 0)
    fmt::print("  within       {}: {:.2f} us\n", level["what"].get<std::string>(), level["us"].get<double>());
}

void print_across(const Json& across, const std::string& network) {
  const auto bytes = [&](const char* key) { return across[key].get<double>(); };
  print_within(across["before"]);
  fmt::print(
      "  across       {} nodes: {} of a rank, {} of a node{}, {:.2f} us over {}\n",
      across["nodes"].get<int>(), bytes_text(bytes("bytes_per_rank")), bytes_text(bytes("bytes_per_node")),
      bytes("partial_bytes_per_node") > 0
          ? fmt::format(" ({} of them partial sums in fp32)", bytes_text(bytes("partial_bytes_per_node")))
          : "",
      across["us"].get<double>(), network);
  print_within(across["after"]);
  if (!across["not_yet"].is_null())
    fmt::print("  not yet      the library does not run {}\n", across["not_yet"].get<std::string>());
}

void print_operation(const Json& o) {
  fmt::print("  operation    {}", o["operation"].get<std::string>());
  if (o.contains("grid"))
    fmt::print(" on {}: {}, {} per rank, {:.2f} us over {}", o["grid"].get<std::string>(),
               bytes_text(o["bytes"].get<double>()), bytes_text(o["bytes_per_rank"].get<double>()),
               o["us"].get<double>(), o["link"].get<std::string>());
  fmt::print("\n  rows         {} -> {}\n", rows_text(o["rows"]["from"]), rows_text(o["rows"]["to"]));
  if (o.contains("across_nodes") && !o["across_nodes"].is_null())
    print_across(o["across_nodes"], o["link"].get<std::string>());
  if (o.contains("algorithm"))
    fmt::print("  algorithm    {}: {}\n", o["algorithm"].get<std::string>(),
               o["why_algorithm"].get<std::string>());
}

void print_finish(const Json& finish) {
  const bool within = !finish["within"].is_null();
  fmt::print("  finish       {} {}; the residual in rows {}{}\n",
             fmt::join(finish["steps"].get<std::vector<std::string>>(), ", "),
             within ? "within " + finish["within"].get<std::string>() : "by itself, in one kernel",
             finish["residual"].get<std::string>(),
             finish["kept"].get<bool>() ? ", kept for what follows" : "");
  if (!within) return;
  const int kernels = finish["separate_kernels"].get<int>();
  fmt::print("               in place of {} kernel{} around it: at least {:.2f} us less\n", kernels,
             kernels == 1 ? "" : "s", finish["saved_us"].get<double>());
}

}  // namespace

std::string bytes_text(double bytes) {
  if (bytes < 1024) return fmt::format("{:.0f} B", bytes);
  if (bytes < 1024 * 1024) return fmt::format("{:.4g} KiB", bytes / 1024);
  return fmt::format("{:.4g} MiB", bytes / (1024 * 1024));
}

Json to_json(const CostModel& model) {
  Json links = Json::array();
  for (const auto& [use, link] : {std::pair("within a node", &model.link), {"between nodes", &model.network}})
    links.push_back({{"use", use},
                     {"name", link->name},
                     {"call_us", link->call_us},
                     {"wait_us", link->wait_us},
                     {"gbps", link->gbps},
                     {"source", link->source}});
  return {{"ranks_per_node", model.per_node}, {"nics_per_node", model.nics_per_node}, {"links", links}};
}

void print_assumed(const Json& assumed) {
  for (const Json& each : assumed) fmt::print("assumed: {}\n", each.get<std::string>());
}

void print_constants(const Json& constants) {
  const int nics = constants["nics_per_node"].get<int>();
  fmt::print(
      "\npredicted as call + waits * wait + bytes per rank / bandwidth; {} ranks in a node, {}\n",
      constants["ranks_per_node"].get<int>(),
      nics == 0 ? "each with a network card" : fmt::format("{} network card{}", nics, nics == 1 ? "" : "s"));
  for (const Json& link : constants["links"])
    fmt::print("  {}: {}: call {:.3g} us, wait {:.3g} us, {:.4g} GB/s\n    source: {}\n",
               link["use"].get<std::string>(), link["name"].get<std::string>(), link["call_us"].get<double>(),
               link["wait_us"].get<double>(), link["gbps"].get<double>(), link["source"].get<std::string>());
}

Json plan_totals(const PlanRequest& request) {
  return totals_of(boundaries_of(request));
}

Json plan_json(const PlanRequest& request) {
  Json boundaries = boundaries_of(request);
  Json plan{{"layers", request.shape.layers.size()},
            {"hidden", request.shape.config.hidden_size},
            {"dtype", name(request.dtype)},
            {"parallelism", to_json(request.parallelism)},
            {"rows", request.rows},
            {"rows_way", name(request.way)},
            {"padded_way",
             {{"decode", name(padded_way(request.rows, Batch::decode))},
              {"extend", name(padded_way(request.rows, Batch::extend))}}}};
  plan.update(totals_of(boundaries));
  plan["boundaries"] = std::move(boundaries);
  plan["assumed"] = request.shape.assumed;
  plan["constants"] = to_json(request.model);
  return plan;
}

void print_plan(const Json& plan) {
  const Json& p = plan["parallelism"];
  fmt::print("{}: {} layers, hidden {}, {}\n", plan["model"].get<std::string>(), plan["layers"].get<int>(),
             plan["hidden"].get<int>(), plan["dtype"].get<std::string>());
  fmt::print("attention: tp {} x dp {}; experts: tp {} x ep {}; dense MLP: tp {}\n", p["attn_tp"].get<int>(),
             p["attn_dp"].get<int>(), p["moe_tp"].get<int>(), p["moe_ep"].get<int>(), p["mlp_tp"].get<int>());
  const auto rows = plan["rows"].get<std::vector<std::size_t>>();
  const bool equal = std::equal(rows.begin() + 1, rows.end(), rows.begin());
  fmt::print("rows of each DP rank: {} ({}; an engine with fixed shapes would take {})\n",
             equal && rows.size() > 8 ? fmt::format("{} on all {}", rows[0], rows.size())
                                      : fmt::format("{}", fmt::join(rows, ", ")),
             plan["rows_way"].get<std::string>(), plan["padded_way"]["decode"].get<std::string>());
  print_assumed(plan["assumed"]);
  for (const Json& boundary : plan["boundaries"]) {
    fmt::print("\n{} ({}x per step)\n", boundary["boundary"].get<std::string>(),
               boundary["count"].get<int>());
    fmt::print("  from         {}\n  to           {}\n", boundary["from"].get<std::string>(),
               boundary["to"].get<std::string>());
    if (boundary["operations"].empty()) fmt::print("  nothing to send\n");
    for (const Json& operation : boundary["operations"]) print_operation(operation);
    for (const Json& addend : boundary["addends"]) {
      fmt::print("  {:<12} added {}\n", addend["name"].get<std::string>(),
                 addend["added"].get<std::string>());
      for (const Json& operation : addend["operations"])
        if (operation.contains("grid")) print_operation(operation);
    }
    if (!boundary["finish"].is_null()) print_finish(boundary["finish"]);
    fmt::print("  why          {}\n", boundary["why"].get<std::string>());
    const Json& two = boundary["two_calls"];
    if (two["operations"].size() != boundary["operations"].size())
      fmt::print("  two calls    {:.2f} us in place of {:.2f}\n", two["us"].get<double>(),
                 boundary["us"].get<double>());
  }
  fmt::print(
      "\none step: {} per rank, {:.0f} us predicted; with two calls in place of each fused one {:.0f} us\n",
      bytes_text(plan["bytes_per_rank"].get<double>()), plan["us"].get<double>(),
      plan["two_calls_us"].get<double>());
  fmt::print(
      "residuals and norms within the operations: at least {:.0f} us less than in kernels of their own\n",
      plan["finish_saved_us"].get<double>());
  print_constants(plan["constants"]);
}

}  // namespace mixcomm::tools
