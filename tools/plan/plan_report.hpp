// A plan as `mixcomm plan` shows it.
#pragma once

#include <string>
#include <vector>

#include "mixcomm/cost.hpp"
#include "mixcomm/layer_plan.hpp"
#include "mixcomm/rows.hpp"
#include "tools/command/command.hpp"
#include "tools/plan/model_shape.hpp"

namespace mixcomm::tools {

/// What a plan is made for.
struct PlanRequest {
  ModelShape shape;
  ModelChoices choices;
  Parallelism parallelism;
  std::vector<std::size_t> rows;  ///< per DP rank
  RowsWay way = RowsWay::exact;
  DType dtype = DType::bf16;
  Algorithm algorithm = Algorithm::automatic;
  CostModel model;
};

/// {"boundaries": [...], "us": ..., ...}: each boundary that occurs, with how often it does.
[[nodiscard]] Json plan_json(const PlanRequest& request);

void print_plan(const Json& plan);

/// What a step's communication takes: {"us": ..., "two_calls_us": ..., "bytes_per_rank": ...}.
[[nodiscard]] Json plan_totals(const PlanRequest& request);

/// Constants with their sources.
[[nodiscard]] Json to_json(const CostModel& model);
void print_constants(const Json& constants);

/// ModelShape::assumed, a line each.
void print_assumed(const Json& assumed);

/// "1.5 KiB"
[[nodiscard]] std::string bytes_text(double bytes);

}  // namespace mixcomm::tools
