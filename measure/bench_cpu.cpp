#include "measure/bench_cpu.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "measure/consume.hpp"
#include "measure/processors.hpp"
#include "measure/statistics.hpp"

namespace mixcomm::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t most_calls = 32;  ///< of a chunk
constexpr std::uint64_t least_calls = 4;  ///< however slow
constexpr double chunk_us = 2000;         ///< short against the seconds for which a machine stays as it is
constexpr std::uint64_t warm_up_calls = 8;
constexpr int least_chunks = 8;  ///< however slow, so that a p50 means something
/// As long as idle threads of a rank, ours or OpenMP's, may look for work before they sleep.
constexpr std::chrono::milliseconds until_idle{15};
constexpr std::size_t alignment = 4096;  ///< of symmetric memory, and so of plain

std::byte* aligned(const std::vector<std::byte>& memory) {
  auto* data = const_cast<std::byte*>(memory.data());
  return data + (alignment - reinterpret_cast<std::uintptr_t>(data) % alignment) % alignment;
}

/// The tensors of a call, without their memory.
struct Shapes {
  Tensor in;
  Tensor out;
};

Shapes shapes_of(const Cell& cell, const Grid& grid, std::size_t hidden, DType dtype) {
  const TensorRows rows = tensor_rows(cell, grid);
  return {{nullptr, rows.in, hidden, dtype}, {nullptr, rows.out, hidden, dtype}};
}

bool has_processor_each(const Bootstrap& bootstrap) {
  return processors_at_start() >= std::min(bootstrap.world(), 2);
}

}  // namespace

Latencies Measured::at(Distance distance) const {
  Latencies all;
  for (const Chunk& chunk : chunks)
    if (distance == Distance::mixed || chunk.distance == distance)
      all.insert(all.end(), chunk.latencies.begin(), chunk.latencies.end());
  return all;
}

CpuBench::CpuBench(Bootstrap& bootstrap, Communicator& communicator, const Options& options,
                   const std::vector<std::unique_ptr<mpi::Job>>& jobs)
    : bootstrap_(bootstrap),
      communicator_(communicator),
      options_(options),
      jobs_(jobs),
      meeting_(bootstrap, most_calls, communicator.options().timeout),
      probe_(bootstrap, communicator.options().timeout, options.probes && has_processor_each(bootstrap)),
      bound_(bootstrap, options.most_bytes, communicator.options().timeout, options.threads),
      inputs_(options.dtype, options.most_bytes),
      host_(verify::make_device(BackendKind::cpu)),
      in_(communicator.allocate(std::max<std::size_t>(options.most_bytes, 1))),
      out_(communicator.allocate(std::max<std::size_t>(options.most_bytes, 1))),
      plain_in_(options.most_bytes + alignment),
      plain_out_(options.most_bytes + alignment) {
  if (!options.epilogues) return;
  epilogues_ = std::make_unique<Epilogues>(*host_, communicator.grid(), options.hidden, options.dtype,
                                           options.most_bytes);
  sums_ = communicator.allocate(std::max<std::size_t>(options.most_bytes, 1));
  plain_sums_.resize(options.most_bytes + alignment);
}

CellResult CpuBench::measure(const Cell& cell, const Effort& effort) {
  const std::size_t own = cell.variants.size() + 1;  // the bound
  const std::size_t count = own + jobs_.size();
  CellResult result;
  result.wrong = check(cell);
  if (options_.threads > 1) result.copy_us = copy_us(cell);
  std::vector<std::uint64_t> chunk(count, most_calls);
  std::vector<Measured> measured(count);
  std::vector<std::size_t> able;
  for (std::size_t i = 0; i < count; ++i) {
    measured[i].takes_part = i < own || (cell.epilogue == EpilogueKind::none && jobs_[i - own]->can(cell));
    if (!measured[i].takes_part) continue;
    able.push_back(i);
    chunk[i] = chunk_calls(cell, i);
  }
  const auto start = Clock::now();
  double before = probe_.measure();
  std::uint64_t calls = 0;
  std::uint64_t more = 1;
  for (std::size_t round = 0; more != 0; ++round) {
    for (std::size_t i = 0; i < able.size(); ++i) {
      // None is always first, or always behind the same other one.
      const std::size_t which = able[(i + round) % able.size()];
      const std::uint64_t now = effort.iterations == 0
                                    ? chunk[which]
                                    : std::min<std::uint64_t>(most_calls, effort.iterations - calls);
      turn(cell, which, now);
      meeting_.barrier();
      const double after = probe_.measure();
      if (bootstrap_.rank() == 0) {
        measured[which].chunks.push_back({distance_of(before, after), collect(cell, which, now)});
        result.flags_ns.push_back(after);
      }
      meeting_.barrier();  // before the latencies are written again
      before = after;
    }
    calls += most_calls;
    const std::chrono::duration<double> spent = Clock::now() - start;
    more = effort.iterations != 0 ? calls < effort.iterations
                                  : round + 1 < least_chunks || spent.count() < effort.seconds;
    more = meeting_.decided_by_rank_0(more);
  }
  result.bound = std::move(measured[cell.variants.size()]);
  std::move(measured.begin() + static_cast<std::ptrdiff_t>(own), measured.end(),
            std::back_inserter(result.jobs));
  measured.resize(cell.variants.size());
  result.variants = std::move(measured);
  return result;
}

CpuBench::Memory CpuBench::memory_of(const Cell& cell) const {
  Memory memory = cell.buffers == Buffers::symmetric
                      ? Memory{in_.data(), out_.data(), sums_.data()}
                      : Memory{aligned(plain_in_), aligned(plain_out_), aligned(plain_sums_)};
  if (cell.in_place) memory.out = memory.in;
  return memory;
}

void CpuBench::call(const Cell& cell, const Variant& variant) {
  const Memory memory = memory_of(cell);
  auto [in, out] = shapes_of(cell, communicator_.grid(), options_.hidden, options_.dtype);
  in.data = memory.in;
  out.data = memory.out;
  if (variant.finish == Finish::behind) {
    Tensor sums = out;
    out.dtype = epilogues_->out_dtype(cell);
    if (out.dtype != in.dtype) sums.data = memory.sums;
    return epilogues_->run_separately(communicator_, cell, {in, in, sums, out});
  }
  CallOptions options{.algorithm = variant.algorithm};
  if (finished(cell, variant)) {
    options.epilogue =
        epilogues_->of(cell, cell.rows[static_cast<std::size_t>(communicator_.grid().dp.member)]);
    out.dtype = epilogues_->out_dtype(cell);
  }
  communicator_.run(cell.op, in, out, RowCounts{std::span<const std::size_t>(cell.rows)}, options);
}

void CpuBench::turn(const Cell& cell, std::size_t contestant, std::uint64_t calls) {
  if (contestant > cell.variants.size())
    return turn_of_job(cell, *jobs_[contestant - cell.variants.size() - 1], calls, false);
  const Grid& grid = communicator_.grid();
  auto [in, out] = shapes_of(cell, grid, options_.hidden, options_.dtype);
  const Memory memory = memory_of(cell);
  const std::span<float> mine = meeting_.latencies(grid.rank());
  const bool is_bound = contestant == cell.variants.size();
  if (!is_bound && finished(cell, cell.variants[contestant])) out.dtype = epilogues_->out_dtype(cell);
  const std::size_t bytes = tensor_bytes(cell, options_.hidden, options_.dtype);
  for (std::size_t i = 0; i < calls; ++i) {
    const std::byte* source = inputs_.of(grid.rank(), ++round_);
    if (is_bound)
      bound_.write(source, in.bytes());
    else if (in.bytes() != 0)
      std::memcpy(memory.in, source, in.bytes());
    meeting_.barrier();
    const auto begin = Clock::now();
    if (is_bound)
      bound_.run(cell, grid.tp.size, grid.dp.size, bytes);
    else
      call(cell, cell.variants[contestant]);
    mine[i] = std::chrono::duration<float, std::micro>(Clock::now() - begin).count();
    if (!is_bound) consume(memory.out, out.bytes());
  }
}

void CpuBench::turn_of_job(const Cell& cell, const mpi::Job& job, std::uint64_t calls, bool check) {
  if (options_.threads > 1) std::this_thread::sleep_for(until_idle);
  if (bootstrap_.rank() == 0) job.order(cell, options_.hidden, static_cast<std::uint32_t>(calls), check);
  meeting_.barrier();
  job.wait();
  if (options_.threads > 1) std::this_thread::sleep_for(until_idle);
}

Latencies CpuBench::collect(const Cell& cell, std::size_t contestant, std::uint64_t calls) const {
  Latencies into;
  if (contestant > cell.variants.size()) {
    jobs_[contestant - cell.variants.size() - 1]->collect(into);
    return into;
  }
  for (std::size_t i = 0; i < calls; ++i) {
    float longest = 0;
    for (int r = 0; r < bootstrap_.world(); ++r) longest = std::max(longest, meeting_.latencies(r)[i]);
    into.push_back(static_cast<double>(longest));
  }
  return into;
}

std::uint64_t CpuBench::chunk_calls(const Cell& cell, std::size_t contestant) {
  turn(cell, contestant, warm_up_calls);
  meeting_.barrier();
  std::uint64_t calls = most_calls;
  if (bootstrap_.rank() == 0) {
    const double us = std::max(median(collect(cell, contestant, warm_up_calls)), 0.001);
    calls = std::clamp(static_cast<std::uint64_t>(chunk_us / us), least_calls, most_calls);
  }
  return meeting_.decided_by_rank_0(calls);
}

double CpuBench::copy_us(const Cell& cell) {
  const std::size_t bytes = tensor_bytes(cell, options_.hidden, options_.dtype);
  Cell apart = cell;
  apart.in_place = false;
  const Memory memory = memory_of(apart);
  for (std::uint64_t i = 0; i < most_calls; ++i) {
    meeting_.barrier();
    const auto begin = Clock::now();
    copy_with(options_.threads, memory.out, memory.in, bytes);
    meeting_.latencies(bootstrap_.rank())[i] =
        std::chrono::duration<float, std::micro>(Clock::now() - begin).count();
  }
  meeting_.barrier();
  const double us = bootstrap_.rank() == 0 ? median(collect(cell, 0, most_calls)) : 0;
  meeting_.barrier();
  return us;
}

std::string CpuBench::check(const Cell& cell) {
  const Grid& grid = communicator_.grid();
  std::string wrong;
  for (std::size_t i = 0; i < cell.variants.size(); ++i) {
    turn(cell, i, 1);
    const std::byte* out = memory_of(cell).out;
    const std::string found = finished(cell, cell.variants[i])
                                  ? epilogues_->wrong(cell, inputs_, round_, out)
                                  : inputs_.wrong(cell, grid, options_.hidden, round_, out);
    if (wrong.empty() && !found.empty()) wrong = to_string(cell.variants[i]) + ", " + found;
  }
  // MPI rounds at every step, but these sums are exact.
  for (const auto& job : jobs_)
    if (cell.epilogue == EpilogueKind::none && job->can(cell)) turn_of_job(cell, *job, 1, true);
  return wrong;
}

}  // namespace mixcomm::tools
