#include "mixcomm/communicator.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <functional>
#include <optional>
#include <vector>

#include "all_or_none.hpp"
#include "backend.hpp"
#include "check_call.hpp"
#include "check_lanes.hpp"
#include "environment.hpp"
#include "epilogue/check_epilogue.hpp"
#include "hosts/hosts_backend.hpp"
#include "mixcomm/choice.hpp"
#include "mixcomm/device/lanes.hpp"
#include "mixcomm/error.hpp"
#include "steps.hpp"

namespace mixcomm {
namespace {

/// The calling rank's block of a tensor that holds all blocks.
template <class View>
View own_block(const View& all, const Grid& grid, const RowCounts& rows) {
  View block = all;
  const std::size_t skipped = rows.total(grid.dp.member) * all.hidden * size_of(all.dtype);
  using Byte = std::conditional_t<std::is_same_v<View, Tensor>, std::byte, const std::byte>;
  if (block.data != nullptr) block.data = static_cast<Byte*>(block.data) + skipped;
  block.rows = rows[grid.dp.member];
  return block;
}

CommunicatorOptions with_defaults(CommunicatorOptions options) {
  const bool on_cpu = options.backend == BackendKind::cpu;
  if (!options.check_agreement) options.check_agreement = on_cpu;
  if (options.workspace_bytes == 0) options.workspace_bytes = std::size_t{on_cpu ? 1U : 4U} << 20U;
  return with_environment(options);
}

void check_workspace_bytes(std::string_view what, std::size_t bytes) {
  constexpr std::size_t least = std::size_t{64} << 10U;
  constexpr std::size_t most = std::size_t{1} << 30U;
  if (bytes < least || bytes > most)
    throw InvalidArgument(fmt::format("{} is {}; it may be {} to {}", what, bytes, least, most));
}

void check_options(const Bootstrap& bootstrap, const CommunicatorOptions& options) {
  const long ranks = static_cast<long>(options.tp) * options.dp;
  if (options.tp < 1 || options.dp < 1 || ranks != bootstrap.world())
    throw InvalidArgument(
        fmt::format("a grid of tp {} x dp {} needs {} ranks, but there are {}; choose tp and dp so that "
                    "tp * dp is the number of ranks",
                    options.tp, options.dp, ranks, bootstrap.world()));
  if (bootstrap.world() > max_ranks)
    throw Unsupported(
        fmt::format("a communicator holds at most {} ranks, not {}", max_ranks, bootstrap.world()));
  check_workspace_bytes("workspace_bytes", options.workspace_bytes);
  if (options.cpu.threads < 0 || options.cpu.threads > most_threads)
    throw InvalidArgument(
        fmt::format("cpu.threads is {}; it may be 1 to {}, or 0 for the cores that this rank owns",
                    options.cpu.threads, most_threads));
  constexpr Milliseconds longest = std::chrono::hours(24 * 365);
  if (options.timeout <= Milliseconds::zero() || options.timeout > longest)
    throw InvalidArgument(
        fmt::format("timeout is {} ms; it may be 1 to {}", options.timeout.count(), longest.count()));
}

/// Throws on every rank if `mine` throws on one, or if ranks say different things.
void agree(Bootstrap& bootstrap, std::string_view step, const std::function<std::string()>& mine) {
  const auto all = all_or_none(bootstrap, step, mine);
  for (std::size_t r = 0; r < all.size(); ++r)
    if (all[r] != all[0])
      throw Disagreement(fmt::format("{}: rank {} has {}, but rank 0 has {}; all ranks must pass the same",
                                     step, r, all[r], all[0]));
}

/// A table of another machine would choose other algorithms than were measured to be good, on one rank or on
/// all: so all ranks refuse it if one has to.
void check_fits(Bootstrap& bootstrap, const TuningTable& table, const Backend& backend,
                const CommunicatorOptions& options) {
  const auto describe = [](std::string_view machine, BackendKind kind, int tp, int dp, bool crowded) {
    return fmt::format("machine '{}', backend {}, tp {} x dp {}, {}", machine, name(kind), tp, dp,
                       crowded ? "more ranks than processors" : "a processor for each rank");
  };
  const std::string of_table = describe(table.machine, table.backend, table.tp, table.dp, table.crowded);
  const auto here = bootstrap.exchange(
      "checking the tuning table",
      describe(backend.machine(), backend.kind(), options.tp, options.dp, backend.crowded()));
  for (std::size_t r = 0; r < here.size(); ++r)
    if (here[r] != of_table)
      throw InvalidArgument(fmt::format(
          "the tuning table is for {}, but rank {} is on {}; run 'mixcomm tune' here, or go without a "
          "table",
          of_table, r, here[r]));
}

/// If the ranks of this bootstrap are a team of a larger one: their numbers there. Empty if the numbers are
/// the same.
std::vector<int> numbers_in_whole(const Bootstrap& bootstrap) {
  std::vector<int> numbers;
  bool same = true;
  for (int r = 0; r < bootstrap.world(); ++r) {
    numbers.push_back(bootstrap.rank_in_whole(r));
    same = same && numbers.back() == r;
  }
  return same ? std::vector<int>() : numbers;
}

}  // namespace

struct Communicator::State {
  Bootstrap& bootstrap;
  CommunicatorOptions options;
  Grid grid;
  std::unique_ptr<Backend> backend;
  std::uint64_t calls = 0;
  std::exception_ptr failure;
  bool paused = false;
  std::vector<int> numbers = numbers_in_whole(bootstrap);
  /// By team kind: which algorithms are the quickest; none where a rule, or a table, knows it.
  std::array<std::unique_ptr<LearntChoice>, team_kinds> learnt{};

  void learn() {
    for (int k = 0; k < team_kinds; ++k) {
      const auto kind = static_cast<TeamKind>(k);
      const Team& team = grid_of(grid, kind).world;
      std::vector<LearningNotes*> notes = backend->learning_notes(kind);
      if (notes.size() > 1)
        learnt[static_cast<std::size_t>(k)] = std::make_unique<LearntChoice>(std::move(notes), team.member);
    }
  }

  void check_alive() const {
    if (failure) std::rethrow_exception(failure);
    in_numbers_of_whole([this] { backend->check_alive(); });
  }

  /// Does `call`. Errors name ranks of this communicator's bootstrap; they are thrown again with the numbers
  /// that those ranks have in the whole job, which Bootstrap::survivors() takes.
  template <class F>
  void in_numbers_of_whole(const F& call) const try {
    call();
  } catch (const PeerGone& error) {
    if (numbers.empty()) throw;
    throw PeerGone(error.what() + team(), renumbered(error.missing()));
  } catch (const Timeout& error) {
    if (numbers.empty()) throw;
    throw Timeout(error.what() + team(), renumbered(error.missing()));
  } catch (const Disagreement& error) {
    if (numbers.empty()) throw;
    throw Disagreement(error.what() + team());
  }
  [[nodiscard]] std::string team() const {
    return fmt::format(" (in a team, whose ranks 0 to {} are ranks {} of all)", numbers.size() - 1,
                       fmt::join(numbers, ", "));
  }
  [[nodiscard]] std::vector<int> renumbered(std::vector<int> ranks) const {
    for (int& rank : ranks) rank = numbers[static_cast<std::size_t>(rank)];
    return ranks;
  }

  void check_running(std::string_view what) const {
    if (paused)
      throw InvalidArgument(
          fmt::format("{}: this communicator is paused, there is no memory behind it and its buffers; call "
                      "resume() on every "
                      "rank first",
                      what));
  }

  void run_one(StepTransport transport, Call& call) {
    call.record.number = ++calls;
    if (call.blocks.elements() == 0) return;  // on every rank of the team, since all know all counts
    try {
      in_numbers_of_whole([&] {
        if (transport == StepTransport::nccl)
          backend->run_nccl(call);
        else
          backend->run(call);
      });
    } catch (const Timeout&) {
      failure = std::current_exception();
      throw;
    } catch (const Disagreement&) {
      failure = std::current_exception();
      throw;
    }
  }
};

Communicator::Communicator(Bootstrap& bootstrap, const CommunicatorOptions& given) {
  const CommunicatorOptions options = with_defaults(given);
  agree(bootstrap, "creating a communicator", [&] {
    check_options(bootstrap, options);
    return fmt::format(
        "tp {}, dp {}, algorithm {}, workspace_bytes {}, check_agreement {}, backend {}, protocol {}, "
        "lines {}, multicast {}, nccl {}, nccl_windows {}, tuning table {}",
        options.tp, options.dp, name(options.algorithm), options.workspace_bytes, *options.check_agreement,
        name(options.backend), name(options.cuda.protocol), options.cuda.lines, options.cuda.multicast,
        options.cuda.nccl != nullptr, options.cuda.nccl_windows,
        options.tuning ? fmt::format("{:016x}", options.tuning->hash()) : "none");
  });
  const Grid grid = Grid::of(options.tp, options.dp, bootstrap.rank());
  state_ = std::unique_ptr<State>(
      new State{bootstrap, options, grid, hosts::make_backend(bootstrap, grid, options), 0, nullptr, false});
  state_->options.cuda.device = state_->backend->device();
  state_->options.cpu.threads = state_->backend->threads();
  if (options.tuning)
    check_fits(bootstrap, *options.tuning, *state_->backend, options);
  else
    state_->learn();
}

Communicator::~Communicator() = default;
Communicator::Communicator(Communicator&&) noexcept = default;
Communicator& Communicator::operator=(Communicator&&) noexcept = default;

const Grid& Communicator::grid() const {
  return state_->grid;
}
const CommunicatorOptions& Communicator::options() const {
  return state_->options;
}

Link Communicator::link() const {
  return state_->backend->link();
}

void Communicator::check() const {
  state_->check_alive();
}

SymmetricBuffer Communicator::allocate(std::size_t bytes) {
  state_->check_alive();
  state_->check_running("allocate");
  agree(state_->bootstrap, "allocating symmetric memory", [&] {
    constexpr std::size_t most = std::size_t{1} << 46U;
    if (bytes == 0 || bytes > most)
      throw InvalidArgument(fmt::format("allocate({}): ask for 1 to {} bytes, on every rank", bytes, most));
    return fmt::format("{} bytes", bytes);
  });
  const SymmetricMemory memory = state_->backend->allocate(bytes);
  SymmetricBuffer buffer;
  buffer.owner_ = memory.owner;
  buffer.data_ = memory.data;
  buffer.bytes_ = bytes;
  return buffer;
}

DeviceLanes Communicator::device_lanes(const DeviceLanesOptions& given) {
  State& state = *state_;
  state.check_alive();
  state.check_running("device_lanes");
  DeviceLanesOptions options = given;
  if (options.bytes == 0) options.bytes = state.options.workspace_bytes;
  const int most = state.backend->most_lanes();
  if (options.lanes == 0) options.lanes = most;
  agree(state.bootstrap, "making lanes for kernels", [&] {
    check_workspace_bytes("device_lanes: bytes", options.bytes);
    if (most > 0) check_lanes(options, most, grid_of(state.grid, options.team).world.size);
    return fmt::format("team {}, {} lanes, {} bytes", static_cast<int>(options.team), options.lanes,
                       options.bytes);
  });
  return state.backend->device_lanes(options);
}

void Communicator::pause() {
  State& state = *state_;
  state.check_alive();
  if (state.paused) return;
  // All ranks have put their last operation on its way: now each of these ends without anybody's help.
  (void)state.bootstrap.exchange("pausing a communicator", "");
  all_or_none(state.bootstrap, "waiting for the last operations", [&] {
    state.backend->settle();
    return std::string();
  });
  try {
    state.backend->pause();
  } catch (const Error&) {
    state.failure = std::current_exception();
    throw;
  }
  state.paused = true;
}

void Communicator::resume() {
  State& state = *state_;
  state.check_alive();
  if (!state.paused) return;
  state.backend->resume();
  state.paused = false;
}

bool Communicator::paused() const {
  return state_->paused;
}

/// One call of run(), checked.
struct Communicator::CallRun {
  State& state;
  Op op;
  const CheckedCall& checked;
  ConstTensor in;
  Tensor out;
  RowCounts rows;
  const CallOptions& options;

  /// All steps of the operation, one after the other, each as it would be by itself.
  void carry_out(Algorithm algorithm) const {
    const bool in_two = algorithm == Algorithm::composed || algorithm == Algorithm::nccl;
    if (in_two && rows.device() != nullptr)
      throw Unsupported(
          fmt::format("{}: algorithm {} needs row counts on the host; use auto, one_shot or two_shot",
                      name(op), name(algorithm)));
    const OpSteps steps = steps_of(op, algorithm, state.grid);
    if (steps.size() == 1)
      run(steps[0], checked);
    else if (shape_of(op).body == Body::gather)
      finish_and_gather(steps[0], steps[1]);
    else
      scatter_and_finish(steps[0], steps[1], algorithm);
  }

 private:
  [[nodiscard]] const Epilogue& epilogue() const { return checked.epilogue; }

  /// Between the two lies the own block of the output. Its rows are finished by then, and travel as the
  /// others are to have them.
  void finish_and_gather(const OpStep& sum, const OpStep& gather) const {
    const Tensor block = own_block(out, state.grid, rows);
    const std::size_t each = scales_per_row(epilogue().quantize, in.hidden);
    const Tensor scales{epilogue().scales, out.rows, each, DType::fp32};
    const Tensor own_scales = own_block(scales, state.grid, rows);
    Epilogue own = epilogue();
    own.scales = static_cast<float*>(own_scales.data);
    run(sum, {in, block, RowCounts(in.rows), own});
    run(gather, {block, out, rows});
    if (each > 0) run(gather, {own_scales, scales, rows});
  }

  /// Between the two lies the output, or memory of its own: FP8 has no room for what is still to be summed.
  void scatter_and_finish(const OpStep& scatter, const OpStep& sum, Algorithm algorithm) const {
    std::vector<std::byte> between;
    Tensor scattered = out;
    if (epilogue().quantizes()) {
      if (state.backend->kind() == BackendKind::cuda)
        throw Unsupported(
            fmt::format("{}: algorithm {} with quantize needs memory for what is between its two operations, "
                        "which backend cuda does not allocate; use auto, one_shot or two_shot",
                        name(op), name(algorithm)));
      between.resize(out.elements() * size_of(in.dtype));
      scattered = {between.data(), out.rows, out.hidden, in.dtype};
    }
    run(scatter, {in, scattered, rows});
    run(sum, {scattered, out, RowCounts(out.rows), epilogue()});
  }

  [[nodiscard]] Circumstances circumstances(const Call& call) const {
    std::size_t largest = 0;
    for (int d = 0; d < call.blocks.dp(); ++d) largest = std::max(largest, call.blocks.full_size(d));
    const std::size_t element = size_of(call.dtype);
    return Circumstances{.op = call.record.op,
                         .tp = state.grid.tp.size,
                         .dp = state.grid.dp.size,
                         .bytes = call.blocks.elements() * element,
                         .symmetric = call.all_blocks().kind == Placement::Kind::symmetric,
                         .largest_block_bytes = largest * element,
                         .crowded = state.backend->crowded(),
                         .backend = state.backend->kind(),
                         // What may not travel in lines goes by the rules of links that have none.
                         .link = state.options.cuda.lines ? state.backend->link() : Link::pcie,
                         .tuning = state.options.tuning ? &*state.options.tuning : nullptr,
                         .epilogue = call.epilogue.any(),
                         .lanes = state.backend->lanes_of_calls()};
  }

  /// `step` is the operation, or one of those that it is carried out as.
  void run(const OpStep& step, const CheckedCall& part) const {
    Call call = make_call(step.op, part, state.grid, *state.backend, options.stream);
    const Circumstances c = circumstances(call);
    if (step.algorithm != Algorithm::automatic) return run_by(step.algorithm, step.transport, call, c);
    LearntChoice* learnt = state.learnt[static_cast<std::size_t>(call.team)].get();
    if (learnt == nullptr || !all_have_rows(call)) return run_by(choose(c), step.transport, call, c);
    const Algorithm first = choose(c);
    const Algorithm other = first == Algorithm::one_shot ? Algorithm::two_shot : Algorithm::one_shot;
    // In two it has other bits where it adds in another order.
    const bool also_in_two = step.op == Op::all_reduce_all_gather && c.tp > 1 && c.dp > 1;
    const std::array<Algorithm, LearntChoice::most_candidates> candidates{first, other, Algorithm::composed};
    const LearntChoice::Work work{step.op, c.symmetric, c.bytes, c.epilogue};
    const Algorithm chosen = learnt->begin(work, {candidates.data(), also_in_two ? 3U : 2U});
    const auto begin = std::chrono::steady_clock::now();
    if (chosen == Algorithm::composed)
      carry_out(chosen);
    else
      run_by(chosen, step.transport, call, c);
    learnt->note(static_cast<std::uint64_t>((std::chrono::steady_clock::now() - begin).count()));
  }

  void run_by(Algorithm algorithm, StepTransport transport, Call& call, const Circumstances& c) const {
    // Whole rows have a rule of their own.
    const LaunchShape chosen = c.epilogue ? LaunchShape{} : choose_shape(c, algorithm);
    call.shape = chosen.with({.protocol = state.options.cuda.protocol}).with(options.shape);
    call.set_algorithm(algorithm, *state.backend);
    state.run_one(transport, call);
  }

  /// Whether every DP rank has rows. Only then do all ranks of the team meet in the call, as learning needs.
  [[nodiscard]] static bool all_have_rows(const Call& call) {
    for (int d = 0; d < call.blocks.dp(); ++d)
      if (call.blocks.full_size(d) == 0) return false;
    return true;
  }
};

void Communicator::run(Op op, ConstTensor in, Tensor out, RowCounts rows, CallOptions options) {
  State& state = *state_;
  if (state.failure) std::rethrow_exception(state.failure);
  state.check_running(name(op));
  if (op == Op::all_reduce && rows.device() == nullptr) rows = RowCounts(in.rows);
  if (rows.device() != nullptr && state.backend->kind() != BackendKind::cuda)
    throw Unsupported(
        fmt::format("{}: row counts in device memory need backend cuda; pass counts on the host", name(op)));
  const Epilogue& epilogue = options.epilogue;
  const CheckedCall checked = check_call(op, in, out, rows, state.grid, epilogue);

  const CallRun call{state, op, checked, in, out, rows, options};
  const Algorithm algorithm =
      options.algorithm != Algorithm::automatic ? options.algorithm : state.options.algorithm;
  call.carry_out(algorithm);
}

void Communicator::copy(const RowCopy& copy, CallOptions options) {
  state_->check_running("copy");
  if (copy.rows > 0 && copy.width > 0) state_->backend->copy(copy, options.stream);
}
void Communicator::clear(Tensor tensor, CallOptions options) {
  state_->check_running("clear");
  if (tensor.bytes() > 0) state_->backend->clear(tensor.data, tensor.bytes(), options.stream);
}

void Communicator::apply(ConstTensor in, Tensor out, CallOptions options) {
  state_->check_running("apply");
  check_apply(options.epilogue, in, out);
  if (in.elements() > 0) state_->backend->apply(options.epilogue, in, out, options.stream);
}

void Communicator::all_reduce(ConstTensor in, Tensor out, CallOptions options) {
  run(Op::all_reduce, in, out, in.rows, options);
}
void Communicator::all_gather(ConstTensor in, Tensor out, RowCounts rows, CallOptions options) {
  run(Op::all_gather, in, out, rows, options);
}
void Communicator::reduce_scatter(ConstTensor in, Tensor out, RowCounts rows, CallOptions options) {
  run(Op::reduce_scatter, in, out, rows, options);
}
void Communicator::all_reduce_all_gather(ConstTensor in, Tensor out, RowCounts rows, CallOptions options) {
  run(Op::all_reduce_all_gather, in, out, rows, options);
}
void Communicator::reduce_scatter_all_reduce(ConstTensor in, Tensor out, RowCounts rows,
                                             CallOptions options) {
  run(Op::reduce_scatter_all_reduce, in, out, rows, options);
}

}  // namespace mixcomm
