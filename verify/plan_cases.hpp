// What the planner is checked on: every spread of a model over some ranks, every way that a module may
// declare itself, and rows of every kind.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "mixcomm/layer_plan.hpp"
#include "mixcomm/rows.hpp"
#include "verify/toy_ranks.hpp"

namespace mixcomm::verify {

/// Every attn_tp x attn_dp = moe_tp x moe_ep = world, and of each every mlp_tp.
[[nodiscard]] std::vector<Parallelism> mappings(int world);

/// "equal", "uneven", "some empty", "one rank only".
struct Distribution {
  std::string name;
  std::vector<std::size_t> rows;  ///< per DP rank
};
[[nodiscard]] std::vector<Distribution> distributions(int dp);

/// A model of two layers with the modules at hand, each of which is at every place where it can be.
struct Variant {
  std::string name;
  ModelModules modules;
};
[[nodiscard]] std::vector<Variant> variants(const Parallelism& parallelism);

/// Which of the models are run.
struct Selection {
  int every = 1;                 ///< only each so manieth variant of a mapping, another one for each mapping
  bool boundaries_once = false;  ///< only those with a boundary that none before had on this mapping
};

struct PlanCheckOptions {
  int most_ranks = 16;
  Selection selection{};
};

struct PlanCheckReport {
  std::size_t mappings = 0;
  std::size_t models = 0;      ///< plans made
  std::size_t refused = 0;     ///< declarations that were refused when the plan was made
  std::size_t cases = 0;       ///< models run on rows
  std::size_t boundaries = 0;  ///< compared with the oracle
  std::size_t failed = 0;
  std::string first;  ///< of what failed
};

/// How a model on rows is run on all ranks of a mapping.
using RunCase = std::function<ToyResult(const ToyCase&)>;

/// Runs one mapping's cases, and adds to the report.
void check_mapping(const Parallelism& parallelism, const Selection& selection, const RunCase& run,
                   PlanCheckReport& report);

/// All mappings up to some ranks, symbolically. `progress` is called behind each number of ranks.
[[nodiscard]] PlanCheckReport check_plans(const PlanCheckOptions& options,
                                          const std::function<void(int world)>& progress = {});

}  // namespace mixcomm::verify
