// All spreads of a model over some GPUs.
#include "tools/plan/plan_compare.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "mixcomm/error.hpp"
#include "runner/parallelism.hpp"
#include "tools/command/model.hpp"

namespace mixcomm::tools {
namespace {

bool divides(const Parallelism& parallelism, const ModelShape& shape) {
  try {
    runner::check_parallelism(parallelism, shape.config);
    return true;
  } catch (const InvalidArgument&) {
    return false;
  }
}

std::vector<std::size_t> dealt(std::size_t batch, int dp) {
  std::vector<std::size_t> rows;
  const auto ranks = static_cast<std::size_t>(dp);
  for (std::size_t d = 0; d < ranks; ++d) rows.push_back(batch / ranks + (d < batch % ranks ? 1 : 0));
  return rows;
}

}  // namespace

Json compare_json(const PlanRequest& request, int gpus, std::size_t batch) {
  Json layouts = Json::array();
  for (int tp = 1; tp <= gpus; ++tp)
    for (int moe_tp = 1; moe_tp <= gpus; ++moe_tp) {
      if (gpus % tp != 0 || gpus % moe_tp != 0) continue;
      PlanRequest each = request;
      each.parallelism = {tp, gpus / tp, moe_tp, gpus / moe_tp, request.parallelism.mlp_tp};
      if (!divides(each.parallelism, request.shape)) continue;
      each.rows = dealt(batch, each.parallelism.attn_dp);
      Json line{{"parallelism", to_json(each.parallelism)}, {"rows", each.rows}};
      line.update(plan_totals(each));
      layouts.push_back(line);
    }
  if (layouts.empty())
    throw InvalidArgument(fmt::format("this model's heads and experts cannot be spread over {} GPUs", gpus));
  std::stable_sort(layouts.begin(), layouts.end(), [](const Json& a, const Json& b) {
    return a["us"].get<double>() < b["us"].get<double>();
  });
  return {{"gpus", gpus},
          {"batch", batch},
          {"layouts", layouts},
          {"assumed", request.shape.assumed},
          {"constants", to_json(request.model)}};
}

void print_comparison(const Json& comparison) {
  fmt::print("{}: {} GPUs, {} rows in a step; communication alone, the quickest first\n\n",
             comparison["model"].get<std::string>(), comparison["gpus"].get<int>(),
             comparison["batch"].get<std::size_t>());
  fmt::print("{:>12} {:>12} {:>16} {:>14} {:>10} {:>10} {:>7}\n", "attn tp x dp", "moe tp x ep",
             "rows per DP rank", "MiB per rank", "us", "two calls", "ratio");
  for (const Json& each : comparison["layouts"]) {
    const Json& p = each["parallelism"];
    const auto rows = each["rows"].get<std::vector<std::size_t>>();
    const double us = each["us"].get<double>();
    const double two = each["two_calls_us"].get<double>();
    fmt::print("{:>12} {:>12} {:>16} {:>14.2f} {:>10.0f} {:>10.0f} {:>7}\n",
               fmt::format("{}x{}", p["attn_tp"].get<int>(), p["attn_dp"].get<int>()),
               fmt::format("{}x{}", p["moe_tp"].get<int>(), p["moe_ep"].get<int>()),
               rows.front() == rows.back() ? fmt::format("{}", rows.front())
                                           : fmt::format("{} to {}", rows.back(), rows.front()),
               each["bytes_per_rank"].get<double>() / (1024 * 1024), us, two,
               two > 0 ? fmt::format("{:.2f}", us / two) : "-");
  }
  fmt::print(
      "\nNot in it: how attention and experts compute, and the KV cache that every TP rank of attention has "
      "a copy of where\n"
      "attn_tp is more than the KV heads.\n");
  print_assumed(comparison["assumed"]);
  print_constants(comparison["constants"]);
}

}  // namespace mixcomm::tools
