// mixcomm check --plan: is every collective the right one?
#include "tools/check/check_plan.hpp"

#include <fmt/format.h>

#include <cstdio>

#include "measure/exchange_long.hpp"
#include "tools/command/machine.hpp"
#include "tools/command/output.hpp"
#include "tools/command/ranks.hpp"
#include "verify/plan_cases.hpp"
#include "verify/plan_ranks.hpp"

namespace mixcomm::tools {
namespace {

/// A few models of each mapping, others for each: numbers that have no divisor in common with how many there
/// are.
constexpr int quick_symbolic = 17;
constexpr int quick_real = 41;

Json to_json(const verify::PlanCheckReport& report) {
  return {{"mappings", report.mappings}, {"models", report.models},         {"refused", report.refused},
          {"cases", report.cases},       {"boundaries", report.boundaries}, {"failed", report.failed},
          {"first", report.first}};
}

void print(const std::string& how, const Json& report) {
  const auto failed = report["failed"].get<std::size_t>();
  fmt::print("{}: {} mappings, {} models ({} declarations refused), {} cases, {} boundaries compared, {}\n",
             how, report["mappings"].get<std::size_t>(), report["models"].get<std::size_t>(),
             report["refused"].get<std::size_t>(), report["cases"].get<std::size_t>(),
             report["boundaries"].get<std::size_t>(),
             failed == 0
                 ? "ok"
                 : fmt::format("{} FAILED, the first: {}", failed, report["first"].get<std::string>()));
  std::fflush(stdout);
}

}  // namespace

int check_plan(const CheckPlanOptions& options, const std::string& command_line) {
  JsonFile file(options.json_path);
  std::size_t failed = 0;
  std::size_t passed = 0;
  Json reports = Json::array();
  const auto add = [&](const std::string& how, const Json& report) {
    print(how, report);
    failed += report["failed"].get<std::size_t>();
    passed += report["cases"].get<std::size_t>() - report["failed"].get<std::size_t>();
    reports.push_back({{"how", how}, {"report", report}});
  };
  {
    Progress progress("check --plan");
    const auto report = verify::check_plans(
        {.most_ranks = options.symbolic_ranks, .selection = {.every = options.quick ? quick_symbolic : 1}},
        [&](int world) {
          progress.update(static_cast<std::size_t>(world), static_cast<std::size_t>(options.symbolic_ranks),
                          "ranks");
        });
    if (options.symbolic_ranks > 0)
      add(fmt::format("up to {} ranks, in integers", options.symbolic_ranks), to_json(report));
  }
  for (int world = 1; world <= options.real_ranks; ++world) {
    const auto body = [&](Bootstrap& bootstrap) {
      Json mine = to_json(verify::check_plans_on(
          bootstrap, {.every = options.quick ? quick_real : 1, .boundaries_once = true}));
      // Every rank looks at its own rows: what one of them finds wrong is wrong.
      Json all = mine;
      for (const std::string& text : exchange_long(bootstrap, "comparing results", mine.dump())) {
        const Json theirs = Json::parse(text);
        if (theirs["failed"].get<std::size_t>() <= all["failed"].get<std::size_t>()) continue;
        all["failed"] = theirs["failed"];
        all["first"] = theirs["first"];
      }
      return all;
    };
    const auto [report, prints] = run_ranks(
        {.world = world, .processes = options.ranks.processes, .timeout = options.ranks.timeout()}, body);
    if (prints) add(fmt::format("{} rank{} on the CPU backend", world, world == 1 ? "" : "s"), report);
  }
  fmt::print("{} passed, {} failed\n", passed, failed);
  file.write({{"machine", machine()},
              {"command", command_line},
              {"reports", reports},
              {"passed", passed},
              {"failed", failed}});
  return failed == 0 ? all_well : check_failed;
}

}  // namespace mixcomm::tools
