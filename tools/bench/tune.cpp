// mixcomm tune: measures which algorithm pays where, and writes a table of it.
#include <fmt/format.h>

#include <memory>

#include "measure/bench_cells.hpp"
#include "measure/gpu/tune_gpu.hpp"
#include "measure/measure_tuning.hpp"
#include "tools/command/backend.hpp"
#include "tools/command/options.hpp"
#include "tools/command/output.hpp"
#include "tools/command/ranks.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(Each operation is measured with each algorithm, in symmetric and in plain memory, for tensors from 4 KiB to --most-bytes, in
turns as in 'mixcomm bench'. The table says which algorithm was quicker up to how many bytes, and what a wait and a byte cost. It
is for this machine, this grid and this backend alone, and refused elsewhere. All ranks take rank 0's table, and check its hash
when they have read it back. Without a table the library goes by static rules.

CUDA: each algorithm is measured over packets, lines and barriers, as the link between the GPUs has them, with
several numbers of threads in a thread block, as CUDA graphs of 50 calls whose results are compared with exact
sums; the table's steps say all of that. Sizes in steps of four come first, then those in between as far as
--seconds goes. A step is taken where it pays by 3 %. The table is for GPUs of this name, joined in this way.

Examples:
  mixcomm tune --tp 2 --dp 1 --out tuning.json
  mixcomm bench --tp 2 --dp 1 --algorithm auto --tuning tuning.json
  MIXCOMM_TUNING=tuning.json mixcomm check --tp 2 --dp 1 --quick
  mixcomm run -n 4 -- mixcomm tune --tp 2 --dp 2 --out tuning.json
  mixcomm tune --backend cuda --tp 2 --dp 2 --out h200-2x2.json
  mixcomm tune --backend cuda --tp 4 --dp 2 --one-gpu)";

struct TuneFlags {
  TuneOptions measured;
  std::string path = "mixcomm-tuning.json";
  BackendFlags backend;
  RankFlags ranks;
};

void print(const TuningTable& table) {
  if (table.backend == BackendKind::cuda) {
    fmt::print("{} x {} ranks on {}\n", table.tp, table.dp, table.machine);
    fmt::print("a flag takes {:.2f} us; {:.1f} GB/s arrive at each rank when all write to all\n",
               table.costs.flag_us, table.costs.read_gbps);
  } else {
    fmt::print("{} x {} ranks on {} ({})\n", table.tp, table.dp, table.machine,
               table.crowded ? "more ranks than processors" : "a processor for each");
    fmt::print("a wait takes {:.2f} us, a flag {:.3f} us; ranks read {:.1f} GB/s each of what others wrote\n",
               table.costs.wait_us, table.costs.flag_us, table.costs.read_gbps);
  }
  for (const auto& choice : table.choices) {
    std::string steps;
    for (const auto& step : choice.steps) {
      const std::string way = to_string(Variant{step.algorithm, step.shape});
      steps += step.up_to_bytes != UINT64_MAX ? fmt::format("{} up to {} bytes, ", way, step.up_to_bytes)
                                              : fmt::format("{}{}", steps.empty() ? "" : "then ", way);
    }
    fmt::print("  {:26} {:10} {}\n", name(choice.op), choice.symmetric ? "symmetric" : "plain", steps);
  }
}

int tune(const TuneFlags& flags) {
  TuneOptions options = flags.measured;
  options.backend = flags.backend.kind;
  options.timeout = flags.ranks.timeout();
  options.binds = launched_world() == 0;
  check_tunable(options);
  check_backend(flags.backend, flags.ranks, options.tp * options.dp);
  const auto [json, prints] =
      run_ranks({.world = world_of(options.tp, options.dp),
                 .processes = flags.ranks.processes,
                 .timeout = options.timeout},
                [&](Bootstrap& bootstrap) {
                  std::unique_ptr<Progress> progress;
                  if (bootstrap.rank() == 0)
                    progress = std::make_unique<Progress>(fmt::format("tune {}x{}", options.tp, options.dp));
                  const auto update = [&](std::size_t done, std::size_t all, const std::string& now) {
                    progress->update(done, all, now);
                  };
                  const TuningTable table =
                      flags.backend.cuda()
                          ? measure_gpu_tuning(bootstrap, options,
                                               place_on_gpu(bootstrap, flags.backend, flags.ranks), update)
                          : measure_tuning(bootstrap, options, update);
                  return Json{{"table", table.text()}};
                });
  if (!prints) return all_well;
  const TuningTable table = TuningTable::parse(json["table"].get<std::string>(), "of the ranks");
  table.save(flags.path);
  if (TuningTable::load(flags.path).hash() != table.hash())
    throw SystemError(fmt::format("{} does not hold what was written to it", flags.path));
  print(table);
  fmt::print("written to {}\n", flags.path);
  return all_well;
}

}  // namespace

void add_tune(CLI::App& app, Invocation& invocation) {
  Flags flags(app, "tune", "Measure which algorithm pays where on this machine", examples);
  const auto options = std::make_shared<TuneFlags>();
  const Integers ranks{1, max_ranks};
  flags.number("--tp", options->measured.tp, ranks, "Ranks of tensor parallelism (2)");
  flags.number("--dp", options->measured.dp, ranks, "Ranks of data parallelism (1)");
  add_backend_flags(flags, options->backend);
  flags.seconds("--seconds", options->measured.seconds, {0, 3600}, "Time for all measurements together (40)");
  flags.number("--most-bytes", options->measured.most_bytes,
               {static_cast<std::int64_t>(least_most_bytes), static_cast<std::int64_t>(most_most_bytes)},
               "The largest tensor (4194304)");
  flags.file("--out", options->path, "Where the table goes (mixcomm-tuning.json)");
  add_rank_flags(flags, options->ranks);
  flags.then([&invocation, options] { invocation.action = [options] { return tune(*options); }; });
}

}  // namespace mixcomm::tools
