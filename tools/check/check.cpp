// mixcomm check: are all sums right?
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "measure/exchange_long.hpp"
#include "tools/check/check_cases.hpp"
#include "tools/check/check_plan.hpp"
#include "tools/command/backend.hpp"
#include "tools/command/gpus.hpp"
#include "tools/command/machine.hpp"
#include "tools/command/output.hpp"
#include "tools/command/ranks.hpp"
#include "tools/command/tuning_flag.hpp"
#include "verify/verify.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(Every case has fresh inputs on every rank, and every element of its output is compared bit by bit with the ordered sum
that the definition of the operation gives, computed apart from the library: all buffer kinds, 0, 1, odd, uneven and many
rows, idle DP ranks, messages longer than the workspace, small integers and random floats. On GPUs also row counts in device
memory.

With --plan, the planner instead: every attn_tp x attn_dp and moe_tp x moe_ep and mlp_tp of up to 16 ranks, modules that declare
themselves in every way, equal, uneven and missing rows, exact and padded: a small decoder in integers against one on one
rank, behind every boundary; and the same on the CPU backend with up to 8 ranks.

Examples:
  mixcomm check                              grids of up to 8 ranks, some minutes
  mixcomm check --tp 2 --dp 2 --quick
  mixcomm check --tp 2 --dp 2 --epilogues    residual, norm and FP8 behind the sums
  mixcomm check --tp 2 --dp 2 --uneven 3,0 --hidden 2880 --buffers symmetric
  mixcomm check --grids 2x2,4x2 --op all_reduce_all_gather --dtype bf16 --processes
  mixcomm check --backend cuda --one-gpu                         ranks as streams of one GPU
  mixcomm check --backend cuda --one-gpu --processes --grids 4x2 as processes that share it, under MPS
  mixcomm run -n 4 -- mixcomm check --tp 2 --dp 2
  mixcomm check --plan --quick
  mixcomm check --plan --symbolic-ranks 16 --real-ranks 8)";

struct CheckOptions {
  int tp = 0;  ///< 0: not given
  int dp = 0;
  std::vector<std::string> grids;
  CaseFlags cases;
  BackendFlags backend;
  std::string json_path;
  std::string tuning_path;
  std::optional<TuningTable> tuning;  ///< read from there
  RankFlags ranks;
  bool plan = false;
  CheckPlanOptions plan_options;
};

std::vector<GridSize> grids_of(const CheckOptions& options) {
  if (options.tp != 0 || options.dp != 0) {
    const GridSize grid{std::max(options.tp, 1), std::max(options.dp, 1)};
    (void)world_of(grid.tp, grid.dp);
    return {grid};
  }
  std::vector<GridSize> grids = grids_from_texts(options.grids);
  if (!grids.empty()) return grids;
  if (const int world = launched_world(); world > 0) {
    for (int tp = 1; tp <= world; ++tp)
      if (world % tp == 0) grids.push_back({tp, world / tp});
    return grids;
  }
  return {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}, {3, 2}, {4, 2}, {2, 4}, {8, 1}, {1, 8}};
}

std::vector<verify::Case> cases_of(const CheckOptions& options, const GridSize& grid) {
  verify::Matrix matrix;
  matrix.tp = grid.tp;
  matrix.dp = grid.dp;
  matrix.backend = options.backend.kind;
  return check_cases_of(options.cases, matrix);
}

/// What this rank found wrong: the indices of cases, and the first of them in words.
struct Findings {
  std::vector<std::size_t> failed;
  std::string first;
};

Findings check_cases(verify::Verifier& verifier, const std::vector<verify::Case>& cases, Progress* progress) {
  Findings findings;
  std::size_t next = 0;
  try {
    for (; next < cases.size(); ++next) {
      const std::string wrong = verifier.run(cases[next]);
      if (!wrong.empty()) {
        if (findings.first.empty()) findings.first = wrong;
        findings.failed.push_back(next);
      }
      if (progress != nullptr)
        progress->update(next, cases.size(), fmt::format("{} failed", findings.failed.size()));
    }
  } catch (const Timeout& error) {
    if (findings.first.empty()) findings.first = error.what();
  } catch (const Disagreement& error) {
    if (findings.first.empty()) findings.first = error.what();
  }
  for (; next < cases.size(); ++next)
    findings.failed.push_back(next);  // a failed communicator takes no more calls
  return findings;
}

/// Small, so that messages pass in chunks; with epilogues room for a row of each DP rank, on CUDA for one of
/// each rank and the residual's, in packets, which take twice as much.
std::size_t workspace_bytes_for(const std::vector<verify::Case>& cases, const GridSize& grid, bool cuda) {
  std::size_t bytes = verify::workspace_bytes;
  const auto rows = static_cast<std::size_t>(cuda ? 2 * (grid.tp * grid.dp + 1) : grid.dp);
  const std::size_t rounded_up = cuda ? 512 : 0;
  for (const verify::Case& each : cases)
    if (each.steps.adds || each.steps.keeps || each.steps.norms || each.steps.quantize != Quantize::none)
      bytes = std::max(bytes, rows * (each.hidden * sizeof(float) + rounded_up));
  return bytes;
}

/// One grid on the bootstrap's ranks. The same on every rank.
Json check_grid(Bootstrap& bootstrap, const CheckOptions& options, const GridSize& grid) {
  const auto cases = cases_of(options, grid);
  CommunicatorOptions wanted{.tp = grid.tp,
                             .dp = grid.dp,
                             .timeout = options.ranks.timeout(),
                             .workspace_bytes = workspace_bytes_for(cases, grid, options.backend.cuda()),
                             .backend = options.backend.kind,
                             .tuning = options.tuning};
  Json result{{"tp", grid.tp}, {"dp", grid.dp}};
  if (options.backend.cuda()) {
    const GpuPlace place = place_on_gpu(bootstrap, options.backend, options.ranks);
    wanted.cuda.device = place.device;
    result["ranks"] = name(place.ranks);
  }
  Communicator communicator(bootstrap, wanted);
  verify::Verifier verifier(communicator, verify::most_elements(cases, grid.dp));
  std::unique_ptr<Progress> progress;
  if (bootstrap.rank() == 0)
    progress = std::make_unique<Progress>(fmt::format("check {}x{}", grid.tp, grid.dp));
  const Findings mine = check_cases(verifier, cases, progress.get());
  progress.reset();

  // Also the point that all ranks reach before any of them gives back memory, which on a GPU holds up others.
  std::vector<bool> failed(cases.size());
  std::string first;
  for (const std::string& text :
       exchange_long(bootstrap, "comparing results", Json{mine.failed, mine.first}.dump())) {
    const Json theirs = Json::parse(text);
    for (const std::size_t index : theirs[0].get<std::vector<std::size_t>>()) failed[index] = true;
    if (first.empty()) first = theirs[1].get<std::string>();
  }
  result["cases"] = cases.size();
  result["failed"] = std::count(failed.begin(), failed.end(), true);
  result["first"] = first;
  return result;
}

void print_grid(const Json& grid) {
  const auto failed = grid["failed"].get<std::size_t>();
  fmt::print(
      "tp {} x dp {}: {} cases, {}\n", grid["tp"].get<int>(), grid["dp"].get<int>(),
      grid["cases"].get<std::size_t>(),
      failed == 0 ? "ok" : fmt::format("{} FAILED, the first: {}", failed, grid["first"].get<std::string>()));
  std::fflush(stdout);
}

int check(const CheckOptions& options, const std::string& command_line) {
  const std::vector<GridSize> grids = grids_of(options);
  int world = 1;
  for (const GridSize& grid : grids) {  // before any rank is started
    world = std::max(world, grid.world());
    (void)cases_of(options, grid);
  }
  check_backend(options.backend, options.ranks, world);
  JsonFile file(this_process_prints() ? options.json_path : "");
  Json results = Json::array();
  bool prints = true;
  // Neighbours with the same number of ranks share them, so that a launcher's ranks can check several grids.
  for (std::size_t begin = 0, end = 0; begin < grids.size(); begin = end) {
    end = begin;
    while (end < grids.size() && grids[end].world() == grids[begin].world()) ++end;
    const auto body = [&](Bootstrap& bootstrap) {
      Json some = Json::array();
      for (std::size_t i = begin; i < end; ++i) some.push_back(check_grid(bootstrap, options, grids[i]));
      return some;
    };
    const auto [some, is_first] = run_ranks({.world = grids[begin].world(),
                                             .processes = options.ranks.processes,
                                             .timeout = options.ranks.timeout()},
                                            body);
    prints = is_first;
    for (const Json& grid : some) {
      if (prints) print_grid(grid);
      results.push_back(grid);
    }
  }
  std::size_t passed = 0;
  std::size_t failed = 0;
  for (const Json& grid : results) {
    failed += grid["failed"].get<std::size_t>();
    passed += grid["cases"].get<std::size_t>() - grid["failed"].get<std::size_t>();
  }
  if (prints) {
    fmt::print("{} passed, {} failed\n", passed, failed);
    Json about = machine();
    if (options.backend.cuda()) {
      about["gpu"] = measured_gpus();
      about["commit"] = commit();
    }
    file.write({{"machine", about},
                {"command", command_line},
                {"grids", results},
                {"passed", passed},
                {"failed", failed}});
  }
  return failed == 0 ? all_well : check_failed;
}

}  // namespace

void add_check(CLI::App& app, Invocation& invocation) {
  Flags flags(app, "check", "Check the operations against exact results", examples);
  const auto options = std::make_shared<CheckOptions>();
  const Integers ranks{1, max_ranks};
  const Flag tp = flags.number("--tp", options->tp, ranks, "Ranks of tensor parallelism");
  const Flag dp = flags.number("--dp", options->dp, ranks, "Ranks of data parallelism");
  add_grids_flag(flags, options->grids, {tp, dp});
  add_case_flags(flags, options->cases);
  add_backend_flags(flags, options->backend);
  flags.file("--json", options->json_path, "Write the results to a file");
  add_tuning_flag(flags, options->tuning_path);
  add_rank_flags(flags, options->ranks);
  const Flag plan = flags.yes("--plan", options->plan, "The planner, not the operations");
  flags
      .number("--symbolic-ranks", options->plan_options.symbolic_ranks, {0, max_ranks},
              "--plan: in integers, up to so many ranks (16)")
      .needs(plan);
  flags
      .number("--real-ranks", options->plan_options.real_ranks, {0, 16},
              "--plan: on the CPU backend, up to so many ranks (8)")
      .needs(plan);
  flags.then([&invocation, options] {
    invocation.action = [&invocation, options] {
      options->tuning = tuning_table(options->tuning_path);
      if (!options->plan) return check(*options, invocation.command_line);
      CheckPlanOptions wanted = options->plan_options;
      wanted.quick = options->cases.quick;
      wanted.json_path = options->json_path;
      wanted.ranks = options->ranks;
      return check_plan(wanted, invocation.command_line);
    };
  });
}

}  // namespace mixcomm::tools
