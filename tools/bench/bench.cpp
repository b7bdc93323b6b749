// mixcomm bench: how long the operations take.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>

#include "measure/exchange_long.hpp"
#include "measure/processors.hpp"
#include "tools/bench/bench_gpu.hpp"
#include "tools/bench/bench_rows.hpp"
#include "tools/bench/cpu_rows.hpp"
#include "tools/command/gpus.hpp"
#include "tools/command/machine.hpp"
#include "tools/command/output.hpp"
#include "tools/command/ranks.hpp"
#include "tools/command/tuning_flag.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* examples =
    R"(CPU: before each call every rank writes new inputs, and all ranks meet at a barrier; a call takes as long as on its slowest
rank. The algorithms of a cell take turns of some calls each. `composed` runs the two collectives of today one after the
other; it is always measured along, and the ratio is composed's p50 over this one's. Each rank is bound to a processor,
or with --threads N to N of them, for as many threads; then copy_gbps is what all ranks copy at once with those.
--against openmpi,mpich runs the same calls as two MPI calls each, in jobs of their own, started beside ours with several
settings of each MPI (the quickest counts), which sleep until it is their turn. Around each turn the time of a flag between
two processors is measured, and only turns at the same distance, near or far, are compared. `bound` is what one meeting of
the ranks and copies of as many bytes take. Results are compared with exact sums: if one is wrong, there are no figures.

--epilogue add_rms_norm has each call add a residual and norm its rows, add_rms_norm_fp8 make FP8 of them as well, with
a scale for each 128 columns. `separate` is the same in the steps of today: the operation alone, between a residual
added on one TP rank, a copy of the own rows, and the norm of all of them; `added` is how much longer a call takes than
the operation alone. With CUDA, separate steps are kernels of the same graph. busbw counts rows as wide as without FP8.

CUDA: a CUDA graph of 50 calls in a row is launched 20 times (--iterations), the graphs of a cell's algorithms in turns; p50 and
p99 are those of the 20, a fiftieth of each. With --one-gpu one graph holds the calls of all ranks, else each rank launches
its own behind a barrier and the slowest counts. What an empty kernel takes in the same place is the floor. Behind the
measurement each graph gets new inputs and its results are compared with exact sums: if one is wrong, there are no figures.
--against nccl needs ranks in processes. Where these share a GPU, NCCL takes them for hosts and uses sockets between them.

`bytes` are those of the tensor with all rows. busbw is what each rank must receive at the least, over p50, as in
nccl-tests: 2(n-1)/n * bytes for all_reduce, (n-1)/n * bytes for all_gather and reduce_scatter; for the fused operations
(tp-1)/tp * bytes/dp, of a reduce-scatter over tp, plus (n-1)/n * bytes, of an all-gather over all n ranks (or backwards).

Examples:
  mixcomm bench --tp 2 --dp 1 --rows 1,4,16,64 --hidden 4096
  mixcomm bench --op all_reduce_all_gather --tp 2 --dp 2 --uneven 3,0 --algorithm all --buffers all
  mixcomm bench --op all --tp 2 --dp 2 --processes --json bench.json
  mixcomm bench --processes --grids 2x1,2x2 --algorithm auto --buffers all --against openmpi,mpich
  mixcomm bench --processes --grids 2x1,2x2 --algorithm auto --epilogue all
  mixcomm bench --processes --tp 2 --threads 8 --rows 16,64,256,1024 --algorithm auto --buffers all
  mixcomm bench --processes --tp 2 --op all_reduce --buffers plain --in-place --against deepspeed
  mixcomm bench --backend cuda --one-gpu --grids 4x2,2x4,2x2 --algorithm auto --buffers all --json bench.json
  mixcomm bench --backend cuda --one-gpu --tp 4 --dp 2 --uneven 9,3 --rows-on-device
  mixcomm bench --backend cuda --tp 2 --dp 2 --algorithm auto --epilogue all --json epilogues.json
  mixcomm bench --backend cuda --one-gpu --processes --tp 2 --dp 2 --against nccl     (under MPS)
  mpirun -n 4 mixcomm bench --tp 2 --dp 2)";

constexpr std::size_t default_launches = 20;

std::vector<GridSize> grids_of(const BenchOptions& options) {
  if (!options.grids.empty()) return grids_from_texts(options.grids);
  (void)world_of(options.tp, options.dp);
  return {{options.tp, options.dp}};
}

/// `binds`: ranks bind themselves to processors, unless a launcher has placed them.
struct Contest {
  const std::vector<Row>& rows;
  const std::vector<std::unique_ptr<mpi::Job>>& jobs;
  bool binds;
};

Json measure_on_cpu(Bootstrap& bootstrap, const BenchOptions& options, const Contest& contest) {
  const std::vector<Row>& rows = contest.rows;
  const GridSize grid = rows.front().grid;
  // Bound to one processor, a rank has one thread, unless it is asked for more; a launcher's ranks have what
  // the library gives them.
  const int threads = contest.binds ? std::max(options.threads.front(), 1) : options.threads.front();
  if (contest.binds) bind_to_processors_of(bootstrap.rank(), threads);  // memory and helpers follow
  Communicator communicator(bootstrap, {.tp = grid.tp,
                                        .dp = grid.dp,
                                        .timeout = options.ranks.timeout(),
                                        .cpu = {.threads = threads},
                                        .tuning = options.tuning});
  CpuBench bench(bootstrap, communicator,
                 {.hidden = options.hidden,
                  .dtype = options.dtype,
                  .most_bytes = most_bytes(options, rows),
                  .threads = communicator.options().cpu.threads,
                  .probes = contest.binds,
                  .epilogues = options.has_epilogues()},
                 contest.jobs);
  std::unique_ptr<Progress> progress;
  if (bootstrap.rank() == 0)
    progress = std::make_unique<Progress>(fmt::format("bench {}x{}", grid.tp, grid.dp));
  Json results = Json::array();
  std::string wrong;
  for (std::size_t i = 0; i < rows.size() && wrong.empty(); ++i) {
    if (progress) progress->update(i, rows.size(), name(rows[i].cell.op));
    const CellResult result = bench.measure(rows[i].cell, options.effort);
    for (std::string& each : exchange_long(bootstrap, "comparing results", result.wrong))
      if (wrong.empty()) wrong = std::move(each);
    if (bootstrap.rank() != 0) continue;
    for (Json& each : cpu_cell_json(options, rows[i], result, contest.jobs)) {
      each["threads"] = communicator.options().cpu.threads;
      results.push_back(std::move(each));
    }
  }
  return {{"rows", results}, {"wrong", wrong}};
}

bool has_jobs(const std::string& other) {
  return mpi::flavour(other, false) != nullptr;
}

/// The jobs of other MPIs, one for each of their settings, that take turns with the ranks of one grid. Throws
/// Unsupported for an MPI that is not there.
std::vector<std::unique_ptr<mpi::Job>> start_jobs(const BenchOptions& options, const GridSize& grid,
                                                  std::size_t bytes) {
  std::vector<std::unique_ptr<mpi::Job>> jobs;
  for (const std::string& other : options.against) {
    if (!has_jobs(other)) continue;
    const mpi::Flavour& flavour = *mpi::flavour(other, grid.world() > processors_at_start());
    std::string problems;
    const std::size_t before = jobs.size();
    for (const mpi::Setting& setting : flavour.settings) try {
        auto job =
            std::make_unique<mpi::Job>(flavour, setting,
                                       mpi::JobOptions{grid.tp, grid.dp, std::max(options.threads.front(), 1),
                                                       options.dtype, bytes, options.ranks.timeout()});
        job->order({}, 0, 0, false);  // no calls: it is up
        job->wait();
        jobs.push_back(std::move(job));
      } catch (const SystemError& error) {
        fmt::print(stderr, "bench: left out: {}\n", error.what());
        problems = error.what();
      }
    if (jobs.size() == before) throw SystemError(fmt::format("--against {}: {}", other, problems));
  }
  return jobs;
}

/// Without the peers that are not there, each named with what to install.
std::vector<std::string> usable_peers(const std::vector<std::string>& against) {
  std::vector<std::string> usable;
  for (const std::string& other : against) try {
      if (const auto* flavour = mpi::flavour(other, false); flavour != nullptr && !flavour->is_mpi)
        (void)mpi::find_worker(*flavour);
      usable.push_back(other);
    } catch (const Unsupported& error) {
      fmt::print(stderr, "bench: skipped: {}\n", error.what());
    }
  return usable;
}

/// What only one of the backends has.
void check_flags(const BenchOptions& options, bool seconds_given) {
  const bool cuda = options.backend.cuda();
  for (const std::string& other : options.against) {
    if (other != "composed" && !(cuda ? other == "nccl" : has_jobs(other)))
      throw Unsupported(
          fmt::format("--against {}: there are composed; with --backend cuda also nccl; with "
                      "--backend cpu also {}",
                      other, fmt::join(mpi::flavour_names(), ", ")));
    if (!has_jobs(other)) continue;
    if (mpi::flavour(other, false)->is_mpi) (void)mpi::find_worker(*mpi::flavour(other, false));
    if (launched_world() != 0)
      throw Unsupported(
          fmt::format("--against {}: its ranks and ours are started by this command itself; run it "
                      "without a launcher",
                      other));
  }
  if (cuda && seconds_given)
    throw InvalidArgument(
        "--seconds is for --backend cpu; with cuda, --iterations says how many graphs are launched");
  if (cuda && options.needs_nccl() && options.backend.one_gpu && !options.ranks.processes &&
      launched_world() == 0)
    throw InvalidArgument(
        "NCCL refuses ranks that share a GPU in one process; add --processes, or leave nccl out of --against "
        "and "
        "--algorithm");
  const auto& algorithms = options.algorithms;
  if (options.has_epilogues() &&
      std::find(algorithms.begin(), algorithms.end(), Algorithm::nccl) != algorithms.end())
    throw InvalidArgument(
        "--algorithm nccl has no epilogues; leave it out, or --epilogue (--against nccl stands beside those "
        "calls that have none)");
  if (options.in_place && (cuda || options.ops != std::vector{Op::all_reduce} || options.has_epilogues()))
    throw InvalidArgument(
        "--in-place is for --backend cpu and --op all_reduce without an epilogue, whose input is as large as "
        "its result; gathers and scatters find theirs in the other tensor");
  if (cuda) return;
  if (options.rows_on_device) throw InvalidArgument("--rows-on-device is for --backend cuda");
  if (options.with_launch) throw InvalidArgument("--with-launch is for --backend cuda");
  if (options.workspace_bytes != 0) throw InvalidArgument("--workspace-mib is for --backend cuda");
  if (options.lanes != std::vector{0}) throw InvalidArgument("--lanes is for --backend cuda");
  if (options.threads.size() != 1)
    throw InvalidArgument(
        "--threads: with --backend cpu it is one number, the threads of each rank; run the command once for "
        "each");
  if (options.threads.front() > most_threads)
    throw InvalidArgument(fmt::format("--threads {}: a rank has at most {} threads with --backend cpu",
                                      options.threads.front(), most_threads));
  if (options.max_lanes != 0) throw InvalidArgument("--max-lanes is for --backend cuda");
  if (options.needs_nccl()) throw InvalidArgument("--algorithm nccl is for --backend cuda");
  if (options.protocols != std::vector{Protocol::automatic})
    throw InvalidArgument("--protocol is for --backend cuda");
}

int bench(const BenchOptions& options, const std::string& command_line) {
  const std::vector<GridSize> grids = grids_of(options);
  int world = 1;
  for (const GridSize& grid : grids) {  // before any rank is started
    world = std::max(world, grid.world());
    (void)most_bytes(options, rows_of(options, grid, Link::nvlink));
  }
  check_backend(options.backend, options.ranks, world);
  JsonFile file(this_process_prints() ? options.json_path : "");
  Json results = Json::array();
  bool prints = true;
  for (const GridSize& grid : grids) {
    const std::vector<Row> rows = rows_of(options, grid, Link::nvlink);
    const auto jobs = start_jobs(options, grid, most_bytes(options, rows));
    const bool binds = launched_world() == 0;
    GpuBench on_gpus(options, grid);
    const auto [measured, is_first] = run_ranks(
        {.world = grid.world(), .processes = options.ranks.processes, .timeout = options.ranks.timeout()},
        [&](Bootstrap& bootstrap) {
          return options.backend.cuda() ? on_gpus.run(bootstrap)
                                        : measure_on_cpu(bootstrap, options, {rows, jobs, binds});
        });
    prints = is_first;
    if (const auto wrong = measured["wrong"].get<std::string>(); !wrong.empty()) {
      if (prints) fmt::print(stderr, "mixcomm: error: {}; there are no figures of wrong results\n", wrong);
      return check_failed;
    }
    for (const Json& row : measured["rows"]) results.push_back(row);
  }
  if (!prints) return all_well;
  Json about = machine();
  if (options.backend.cuda()) about["gpu"] = measured_gpus();
  about["commit"] = commit();
  file.write({{"machine", about}, {"command", command_line}, {"rows", results}});
  print_table(results);
  if (!options.backend.cuda()) print_cpu_table(results);
  return all_well;
}

}  // namespace

void add_bench(CLI::App& app, Invocation& invocation) {
  Flags flags(app, "bench", "Measure the operations", examples);
  const auto options = std::make_shared<BenchOptions>();
  add_backend_flags(flags, options->backend);
  add_names(flags, op_flag(), options->ops);
  const Integers ranks{1, max_ranks};
  const Flag tp = flags.number("--tp", options->tp, ranks, "Ranks of tensor parallelism (2)");
  const Flag dp = flags.number("--dp", options->dp, ranks, "Ranks of data parallelism (1)");
  add_grids_flag(flags, options->grids, {tp, dp});
  add_row_flags(flags, options->rows);
  flags.yes("--rows-on-device", options->rows_on_device, "CUDA: pass the row counts in device memory");
  flags.number("--hidden", options->hidden, {1, most_rows}, "Elements of a row (4096)");
  add_named(flags, "--dtype", options->dtype, dtype_from_name, "bf16 (default), fp16 or fp32");
  add_names(flags, algorithms_flag(), options->algorithms);
  add_names(flags,
            {"--protocol",
             "CUDA: how data travels (auto)",
             protocol_from_name,
             {Protocol::automatic, Protocol::packets, Protocol::lines, Protocol::barriers}},
            options->protocols);
  add_names(
      flags,
      {"--buffers", "Kinds of memory (symmetric)", buffers_from_name, {Buffers::symmetric, Buffers::plain}},
      options->buffers);
  add_names(flags,
            {"--epilogue",
             "What the operation does with its rows (none)",
             epilogue_from_name,
             {EpilogueKind::none, EpilogueKind::add_rms_norm, EpilogueKind::add_rms_norm_fp8}},
            options->epilogues);
  flags.yes("--in-place", options->in_place,
            "CPU, all_reduce: the result is written over the input, as DeepSpeed's and vLLM's is");
  flags.list(
      "--against", options->against, "NAME,...",
      "What to compare with: composed, which is always measured; CPU: openmpi, mpich, deepspeed, vllm, "
      "oneccl, gloo; CUDA: nccl");
  flags.file("--json", options->json_path, "Write the results to a file");
  const Flag iterations =
      flags.number("--iterations", options->effort.iterations, {1, 1'000'000},
                   "Calls of each algorithm in each cell; CUDA: launches of its graph (20)");
  const Flag seconds =
      flags.seconds("--seconds", options->effort.seconds, {0, 3600}, "Or: time for each cell (0.5)")
          .excludes(iterations);
  flags.yes("--with-launch", options->with_launch,
            "CUDA: time the launch of each graph as well; else an untimed one goes right before it");
  const Integers shape{0, 1024};
  flags.numbers("--lanes", options->lanes, shape,
                "CUDA: thread blocks of each call, each in turn (0: the library's choice)");
  flags.numbers("--threads", options->threads, shape,
                "CPU: threads of each rank (1; under a launcher 0, the library's choice), each with a "
                "processor; CUDA: threads of a thread block, each in turn (0)");
  flags.number("--workspace-mib", options->workspace_mib, {1, 1024},
               "CUDA: CommunicatorOptions::workspace_bytes, in MiB");
  flags.number("--max-lanes", options->max_lanes, {1, 1024}, "CUDA: thread blocks of an operation at most");
  add_tuning_flag(flags, options->tuning_path);
  add_rank_flags(flags, options->ranks);
  flags.then([&invocation, options, seconds] {
    const bool seconds_given = seconds.given();
    options->workspace_bytes = options->workspace_mib << 20U;
    if (options->backend.cuda() && options->effort.iterations == 0)
      options->effort.iterations = default_launches;
    invocation.action = [&invocation, options, seconds_given] {
      check_flags(*options, seconds_given);
      options->against = usable_peers(options->against);
      options->tuning = tuning_table(options->tuning_path);
      return bench(*options, invocation.command_line);
    };
  });
}

}  // namespace mixcomm::tools
