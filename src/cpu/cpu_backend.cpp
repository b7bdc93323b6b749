#include "cpu/cpu_backend.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <vector>

#include "algorithms/one_shot.hpp"
#include "algorithms/two_shot.hpp"
#include "all_or_none.hpp"
#include "allocations.hpp"
#include "bootstrap/memory.hpp"
#include "cpu/context.hpp"
#include "cpu/numa.hpp"
#include "cpu/processors.hpp"
#include "cpu/staging.hpp"
#include "cpu/thread_count.hpp"
#include "mixcomm/device/lanes.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cpu {
namespace {

constexpr std::size_t page = 4096;

/// The most bytes of a pass between two ranks: areas that change hands are to stay in their caches.
constexpr std::size_t most_kept_bytes = std::size_t{512} << 10U;

/// Shared memory of which each rank owns a slice.
struct Slices {
  std::shared_ptr<std::byte> memory;
  std::size_t stride = 0;
  [[nodiscard]] std::byte* of(int rank) const {
    return memory.get() + static_cast<std::size_t>(rank) * stride;
  }
};

Slices share_slices(Bootstrap& bootstrap, std::size_t bytes) {
  const std::size_t stride = round_up(bytes, page);
  Slices slices{bootstrap.share_memory(stride * static_cast<std::size_t>(bootstrap.world())), stride};
  place_on_my_node(slices.of(bootstrap.rank()), stride);
  return slices;
}

/// Runs one pass; returns how much of its time the rank waited.
template <class T>
std::uint64_t run_body(const Call& call, const Grid& grid, Channel& channel, const PassBuffers& buffers) {
  CpuContext<T> context(call, grid, channel, buffers);
  const bool one_shot = call.algorithm == Algorithm::one_shot;
  if (call.body == Body::gather && one_shot)
    all_reduce_all_gather_one_shot(context, grid, call.blocks);
  else if (call.body == Body::gather)
    all_reduce_all_gather_two_shot(context, grid, call.blocks);
  else if (one_shot)
    reduce_scatter_all_reduce_one_shot(context, grid, call.blocks);
  else
    reduce_scatter_all_reduce_two_shot(context, grid, call.blocks);
  return context.waited();
}

std::uint64_t run_pass(const Call& call, const Grid& grid, Channel& channel, const PassBuffers& buffers) {
  switch (call.dtype) {
    case DType::bf16:
      return run_body<bf16>(call, grid, channel, buffers);
    case DType::fp16:
      return run_body<fp16>(call, grid, channel, buffers);
    case DType::fp8_e4m3:  // gathered, never summed
      return run_body<fp8_e4m3>(call, grid, channel, buffers);
    case DType::fp32:
      break;
  }
  return run_body<float>(call, grid, channel, buffers);
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(Bootstrap& bootstrap, const Grid& grid, const CommunicatorOptions& options)
      : bootstrap_(bootstrap), grid_(grid), area_bytes_(round_up(options.workspace_bytes, page)) {
    const int world = grid.world.size;
    // Slice of a rank: its state, then areas_each areas per team kind and parity.
    slices_ = share_slices(bootstrap, state_bytes + areas * area_bytes_);
    for (int r = 0; r < world; ++r) {
      // Zeroed memory is a valid initial state; constructing the objects again on each rank would race with
      // their use.
      ranks_.push_back(std::launder(reinterpret_cast<RankState*>(slices_.of(r) + sizeof(Failure))));
    }
    watch_ = DeathWatch(bootstrap.processes());
    use_threads(exchange_processors(bootstrap, own_processors(options.cpu)), options.cpu.workers);
    shared_ = {.ranks = ranks_,
               .failure = std::launder(reinterpret_cast<Failure*>(slices_.of(0))),
               .watch = &watch_,
               .timeout = options.timeout,
               .rank = grid.rank(),
               .tp = grid.tp.size,
               .spins = crowded_ ? 1 : 2000,
               .yields = 64,
               .check_agreement = options.check_agreement.value_or(true)};
    for (int k = 0; k < team_kinds; ++k) {
      const auto kind = static_cast<TeamKind>(k);
      grids_.push_back(grid_of(grid, kind));
      channels_.emplace_back(shared_, kind, grids_.back().world);
    }
  }

  SymmetricMemory allocate(std::size_t bytes) override {
    const Slices slices = share_slices(bootstrap_, bytes);
    return allocations_.add(slices.memory, slices.of(grid_.rank()), bytes, slices.stride);
  }

  DeviceLanes device_lanes(const DeviceLanesOptions& /*options*/) override { throw no_lanes(); }

  [[nodiscard]] Placement place(const void* data, std::size_t bytes) const override {
    return allocations_.place(data, bytes);
  }

  [[nodiscard]] int threads() const override { return threads_; }

  void settle() override {}  // a call ends when its results are there

  /// The ranks' states stay: they are small, and go on counting.
  void pause() override {
    const auto world = static_cast<std::size_t>(grid_.world.size);
    all_or_none(bootstrap_, "giving back memory", [&] {
      give_back(slices_.of(grid_.rank()) + state_bytes, slices_.stride - state_bytes);
      for (const auto& each : allocations_.living()) {
        const std::size_t stride = each.where;
        auto* const first =
            const_cast<std::byte*>(each.mine) - static_cast<std::size_t>(grid_.rank()) * stride;
        if (const auto owner = each.owner.lock())
          give_back(first, stride * world);  // also of ranks that let go
      }
      return std::string();
    });
  }
  /// Memory comes when it is touched.
  void resume() override { (void)bootstrap_.exchange("taking memory again", ""); }

  [[nodiscard]] std::string machine() const override { return machine_name(); }
  [[nodiscard]] bool crowded() const override { return crowded_; }

  /// Where ranks share processors, no rule knows how long a wait takes and which ranks are near: it is
  /// learnt.
  [[nodiscard]] std::vector<LearningNotes*> learning_notes(TeamKind team) override {
    std::vector<LearningNotes*> notes;
    if (!crowded_) return notes;
    const auto kind = static_cast<std::size_t>(team);
    const Team& members = grids_[kind].world;
    for (int m = 0; m < members.size; ++m)
      notes.push_back(&ranks_[static_cast<std::size_t>(members.rank(m))]->learning[kind]);
    return notes;
  }

  void check_alive() const override { shared_.failure->rethrow(); }
  /// Who sleeps looks a hundred times a second.
  void fail(const std::string& why) override { shared_.failure->record(Failure::Kind::timeout, why, 0); }

  [[nodiscard]] BackendKind kind() const override { return BackendKind::cpu; }

  void copy(const RowCopy& copy, void* /*stream*/) override {
    for (std::size_t row = 0; row < copy.rows; ++row)
      std::memcpy(static_cast<std::byte*>(copy.to) + row * copy.to_pitch,
                  static_cast<const std::byte*>(copy.from) + row * copy.from_pitch, copy.width);
  }
  void clear(void* data, std::size_t bytes, void* /*stream*/) override { std::memset(data, 0, bytes); }
  void apply(const Epilogue& epilogue, const ConstTensor& in, const Tensor& out, void* /*stream*/) override {
    mixcomm::apply(epilogue, in, out);
  }
  void run_nccl(const Call& /*call*/) override { throw no_nccl(); }

  /// Where a wait is cheap, a second one is cheaper than a copy. But nobody may write a sum where others
  /// still read: with sums over tp, into an input that is a block of the output or holds it, which not every
  /// rank can know of all. With one over dp alone the input would be, but for an epilogue, what is stored
  /// there.
  [[nodiscard]] bool reads_in_place(const Call& call) const override {
    const bool gathers = call.body == Body::gather;
    const bool in_block = gathers && call.in_placement.kind == Placement::Kind::in_place;
    const bool finished_in_place = call.epilogue.any() && in_block;
    const bool sums_over_tp = grids_[static_cast<std::size_t>(call.team)].tp.size > 1;
    const bool apart = (!sums_over_tp && !finished_in_place) ||
                       (gathers && call.in_placement.kind == Placement::Kind::symmetric);
    return !crowded_ && call.in_placement.kind != Placement::Kind::plain && apart;
  }

  void run(Call& call) override {
    check_alive();
    ranks_[static_cast<std::size_t>(grid_.rank())]->calls.post(call.record);
    const auto kind = static_cast<std::size_t>(call.team);
    const Grid grid = call.part_of(grid_);

    if (grid.world.size == 1) {  // one block, and nothing to add to it
      const std::size_t rows = call.blocks.elements() / call.hidden;
      if (call.epilogue.any())
        mixcomm::apply(
            call.epilogue, {call.in, rows, call.hidden, call.dtype},
            {call.out, rows, call.hidden, call.epilogue.quantizes() ? DType::fp8_e4m3 : call.dtype});
      else if (call.in != call.out)
        std::memcpy(call.out, call.in, call.blocks.elements() * size_of(call.dtype));
      return;
    }
    if (helpers_.team && thread_count_->is_shared(call.blocks.elements() * size_of(call.dtype)))
      helpers_.team->rouse(threads_);

    // A pass holds what the workspace does, or everything where it is not needed.
    const bool staged = is_staged(call);
    const bool changes_hands = staged && grid.world.size == 2 && call.algorithm == Algorithm::one_shot;
    const std::size_t capacity = changes_hands ? std::min(area_bytes_, most_kept_bytes) : area_bytes_;
    const int passes = cut(call, grid, staged ? capacity / staged_bytes(call) : most_elements);
    PassBuffers buffers{.in = direct(call.seen_input()),
                        .out = direct(call.seen_output()),
                        .staged_in = {},
                        .staged_out = {},
                        .staged_kept = {},
                        .staged_scales = {},
                        .pushing = Stores::streamed};
    // Ranks that share a processor share its caches, others do not: then which stores push better is
    // measured, too. Two ranks already have the lines that they stage in, if all of them are read.
    const bool learns = crowded_ || (staged && !changes_hands);
    for (int pass = 0; pass < passes; ++pass) {
      call.blocks.cover(pass);
      buffers.staged_in = area(kind, 0);
      buffers.staged_out = area(kind, 1);
      buffers.staged_kept = area(kind, 2);
      buffers.staged_scales = area(kind, 3);
      const StagingStores::Work work{kind * 8 + (call.epilogue.any() ? 4 : 0) +
                                         (call.body == Body::gather ? 2 : 0) +
                                         (call.algorithm == Algorithm::one_shot ? 1 : 0),
                                     call.blocks.packed_size() * size_of(call.dtype)};
      const ThreadCount::Work shared_work{work.kind * 2 + (staged ? 1 : 0), work.bytes};
      helpers_.threads = thread_count_->choose(shared_work, passes_[kind]);
      buffers.helpers = helpers_.threads > 1 ? &helpers_ : nullptr;
      helpers_.tasks.clear();  // what a call that failed has left
      const Stores learnt = staging_.choose(work, passes_[kind]);
      buffers.staging = changes_hands ? Stores::cached : learnt;
      if (crowded_) buffers.pushing = learnt;
      ++passes_[kind];
      const std::uint64_t begin = ticks();
      const std::uint64_t waited = run_pass(call, grid, channels_[kind], buffers);
      if (!learns && !thread_count_->is_shared(work.bytes)) continue;
      const std::uint64_t cost = ticks() - begin - waited;
      if (learns) staging_.note(work, learnt, cost);
      thread_count_->note(shared_work, helpers_.threads, cost);
    }
  }

 private:
  void use_threads(const std::vector<RankProcessors>& ranks, const RunPieces& workers) {
    const int processors = usable_processors(ranks);
    crowded_ = grid_.world.size > processors;
    const std::vector<ThreadShare> shares = threads_of(ranks);
    int of_all = 0;
    for (const ThreadShare& each : shares) of_all += each.threads;
    const auto own = static_cast<std::size_t>(grid_.rank());
    threads_ = shares[own].threads;
    thread_count_.emplace(threads_, StagingStores::most_kinds * 2);
    helpers_.workers = workers;
    if (threads_ == 1 || workers) return;
    helpers_.team = ThreadTeam::of_this_thread();
    if (of_all > processors || threads_ > CPU_COUNT(&ranks[own].usable)) helpers_.team->share_processors();
  }

  static constexpr std::size_t areas_each = 4;  ///< input; output, or residuals; for residual_out; scales
  static constexpr std::size_t areas = std::size_t{team_kinds} * 2 * areas_each;
  static constexpr std::size_t state_bytes = round_up(sizeof(Failure) + sizeof(RankState), page);

  static constexpr std::size_t most_elements = std::size_t{1} << 30U;  ///< that Blocks can cut

  /// Whether anything goes through the workspace; the same on all ranks of the call.
  [[nodiscard]] static bool is_staged(const Call& call) {
    const bool plain_in = call.in_placement.kind == Placement::Kind::plain;
    const bool plain_out = call.out_placement.kind == Placement::Kind::plain;
    if (call.algorithm == Algorithm::one_shot) return !call.reads_in_place || call.shares_residuals();
    return plain_in || plain_out || call.epilogue.keeps() || scales_per_row(call.epilogue.quantize, 1) > 0;
  }
  /// What an element needs of each area at most.
  [[nodiscard]] static std::size_t staged_bytes(const Call& call) {
    const bool scales = scales_per_row(call.epilogue.quantize, call.hidden) > 0;
    return scales ? std::max(sizeof(float), size_of(call.dtype)) : size_of(call.dtype);
  }

  /// Cuts the blocks into passes of `capacity` elements at most: of whole rows where there is an epilogue.
  static int cut(Call& call, const Grid& grid, std::size_t capacity) {
    if (!call.epilogue.any()) return passes_for(call.blocks, capacity);
    std::size_t least = 0;
    for (int d = 0; d < grid.dp.size; ++d) least += call.blocks.full_size(d) > 0 ? call.hidden : 0;
    if (least > capacity)
      throw InvalidArgument(fmt::format(
          "{}: with an epilogue a pass holds a row of each DP rank, together {} elements of up to {} bytes, "
          "but "
          "the workspace has room for {}; make the communicator with workspace_bytes of {} or more",
          name(call.record.op), least, staged_bytes(call), capacity, least * staged_bytes(call)));
    return passes_for(call.blocks, capacity, call.hidden);
  }

  /// The view of a buffer in symmetric memory, as seen from rank 0's slice; empty for a plain one.
  [[nodiscard]] View direct(const Call::Seen& buffer) const {
    const auto* found = allocations_.of(buffer.placement);
    if (found == nullptr) return {};
    auto* mine = static_cast<std::byte*>(const_cast<void*>(buffer.data));  // a View serves inputs and outputs
    const auto stride = static_cast<std::ptrdiff_t>(found->where);
    return {mine - grid_.rank() * stride, stride,
            buffer.all_blocks ? Coordinates::all_blocks : Coordinates::one_block, false};
  }

  /// Areas alternate from pass to pass: when a rank writes one again, all have come to the pass in between,
  /// so none reads the old contents any more. And they change hands, the first rank's with the last one's:
  /// two ranks so write where they have just read, in lines that need not be taken back from the other's
  /// cache (3 instead of 8 ns each where they share a cache). Which lines those are depends on the block,
  /// too.
  [[nodiscard]] View area(std::size_t kind, std::size_t which) const {
    const std::size_t parity = current_mutant() == Mutant::one_workspace ? 0 : passes_[kind] % 2;
    const std::size_t index = (kind * 2 + parity) * areas_each + which;
    std::byte* first = slices_.memory.get() + state_bytes + index * area_bytes_;
    const auto stride = static_cast<std::ptrdiff_t>(slices_.stride);
    if (passes_[kind] / 2 % 2 == 0) return {first, stride, Coordinates::packed, true, false};
    const Team& team = grids_[kind].world;
    const int both_ends = team.rank(0) + team.rank(team.size - 1);
    return {first + both_ends * stride, -stride, Coordinates::packed, true, true};
  }

  Bootstrap& bootstrap_;
  Grid grid_;
  std::size_t area_bytes_;
  bool crowded_ = false;
  Slices slices_;
  std::vector<RankState*> ranks_;
  DeathWatch watch_;
  ChannelShared shared_;
  std::vector<Grid> grids_;
  std::vector<Channel> channels_;
  std::array<std::size_t, team_kinds> passes_{};
  StagingStores staging_;
  int threads_ = 1;
  std::optional<ThreadCount> thread_count_;
  Helpers helpers_;
  static_assert(StagingStores::most_kinds == std::size_t{team_kinds} * 8,
                "kinds are told apart by team, epilogue, body and algorithm, where a pass is cut (run())");
  Allocations<std::size_t> allocations_;  ///< with their strides
};

}  // namespace

std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                      const CommunicatorOptions& options) {
  return std::make_unique<CpuBackend>(bootstrap, grid, options);
}

}  // namespace mixcomm::cpu
