#include "cpu/cpu_backend.hpp"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "algorithms/one_shot.hpp"
#include "algorithms/two_shot.hpp"
#include "all_or_none.hpp"
#include "allocations.hpp"
#include "bootstrap/memory.hpp"
#include "cpu/context.hpp"
#include "cpu/helpers.hpp"
#include "cpu/numa.hpp"
#include "cpu/processors.hpp"
#include "cpu/staging.hpp"
#include "cpu/thread_count.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cpu {
namespace {

constexpr std::size_t page = 4096;

/// What two ranks stage at a time: areas that change hands are to stay in their caches.
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

struct PassEnd {
  std::uint64_t waited = 0;  ///< how much of its time
  bool is_through = true;    ///< else it is to be run again
};

/// Runs one pass, or goes on with it.
template <class T>
PassEnd run_body(const Call& call, const Grid& grid, Channel& channel, const PassBuffers& buffers) {
  CpuContext<T> context(call, grid, channel, buffers);
  const bool one_shot = call.algorithm == Algorithm::one_shot;
  if (call.gathers && one_shot)
    all_reduce_all_gather_one_shot(context, grid, call.blocks);
  else if (call.gathers)
    all_reduce_all_gather_two_shot(context, grid, call.blocks);
  else if (one_shot)
    reduce_scatter_all_reduce_one_shot(context, grid, call.blocks);
  else
    reduce_scatter_all_reduce_two_shot(context, grid, call.blocks);
  return {context.waited(), context.is_through()};
}

PassEnd run_pass(const Call& call, const Grid& grid, Channel& channel, const PassBuffers& buffers) {
  switch (call.dtype) {
    case DType::bf16:
      return run_body<bf16>(call, grid, channel, buffers);
    case DType::fp16:
      return run_body<fp16>(call, grid, channel, buffers);
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
    // Slice of a rank: its state, then an input and an output area per team kind and parity.
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
               .lanes = most_lanes_,
               .check_agreement = options.check_agreement.value_or(true)};
    of_helpers_ = shared_;
    if (shares_processors_) of_helpers_.spins = 1;
    for (int k = 0; k < team_kinds; ++k) {
      const auto kind = static_cast<TeamKind>(k);
      grids_.push_back(grid_of(grid, kind));
      const Team& team = grids_.back().world;
      auto& channels = channels_.emplace_back();
      for (int lane = 0; lane < most_lanes_; ++lane)
        channels.emplace_back(lane == 0 ? shared_ : of_helpers_, kind, lane, team);
      lane_counts_.emplace_back(
          ranks_[static_cast<std::size_t>(team.rank(0))]->lane_counts[static_cast<std::size_t>(k)],
          team.member == 0, most_lanes_, StagingStores::most_kinds * 2);
    }
  }

  SymmetricMemory allocate(std::size_t bytes) override {
    const Slices slices = share_slices(bootstrap_, bytes);
    return allocations_.add(slices.memory, slices.of(grid_.rank()), bytes, slices.stride);
  }

  [[nodiscard]] Placement place(const void* data, std::size_t bytes) const override {
    return allocations_.place(data, bytes);
  }

  [[nodiscard]] int threads() const override { return own_threads_; }

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

  /// Where ranks share processors, how long a wait takes, and what is near, no rule can know.
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

  [[nodiscard]] BackendKind kind() const override { return BackendKind::cpu; }

  void run(Call& call) override {
    check_alive();
    ranks_[static_cast<std::size_t>(grid_.rank())]->calls.post(call.record);
    const auto kind = static_cast<std::size_t>(call.team);
    const Grid& grid = grids_[kind];

    if (grid.world.size == 1) {  // one block, and nothing to add to it
      if (call.in != call.out) std::memcpy(call.out, call.in, call.blocks.elements() * size_of(call.dtype));
      return;
    }
    const std::size_t bytes = call.blocks.elements() * size_of(call.dtype);
    LaneCount& lane_count = lane_counts_[kind];
    const bool is_shared = lane_count.is_shared(bytes);
    if (is_shared && helpers_.team) helpers_.team->rouse(most_lanes_);

    // A pass holds what the workspace does, or everything where it is not needed.
    const bool staged = is_staged(call);
    const bool changes_hands = staged && grid.world.size == 2 && call.algorithm == Algorithm::one_shot;
    const std::size_t work_kind =
        kind * 4 + (call.gathers ? 2 : 0) + (call.algorithm == Algorithm::one_shot ? 1 : 0);
    const ThreadCount::Work work{work_kind * 2 + (staged ? 1 : 0), bytes};
    Passes passes{.kind = kind,
                  .lanes = is_shared ? lane_count.begin(work) : 1,
                  .in = direct(call.seen_input()),
                  .out = direct(call.seen_output())};
    passes.slice_bytes = area_bytes_ / static_cast<std::size_t>(passes.lanes) / page * page;
    const std::size_t capacity =
        changes_hands ? std::min(passes.slice_bytes, most_kept_bytes) : passes.slice_bytes;
    passes.of_lane =
        passes_for(call.blocks, staged ? capacity / size_of(call.dtype) : most_elements, passes.lanes) /
        passes.lanes;
    // Ranks that share a processor share its caches, others do not: then which stores push better is
    // measured, too. Two ranks already have the lines that they stage in, if all of them are read.
    const bool learns = crowded_ || (staged && !changes_hands);
    const auto stores = [&](StagingStores& known, const StagingStores::Work& of, std::size_t number) {
      const Stores learnt = known.choose(of, number);
      passes.staging = changes_hands ? Stores::cached : learnt;
      passes.pushing = crowded_ ? learnt : Stores::streamed;
      return learnt;
    };
    if (passes.lanes == 1) {
      const std::uint64_t call_begin = ticks();
      std::uint64_t late = 0;
      for (int pass = 0; pass < passes.of_lane; ++pass) {
        const StagingStores::Work pass_work{work_kind, call.blocks.packed_size() * size_of(call.dtype)};
        const Stores learnt = stores(staging_, pass_work, passes_[kind]);
        const std::uint64_t begin = ticks();
        const std::uint64_t waited = run_pass_of(call, passes, {.lane = 0, .pass = pass}, nullptr).waited;
        ++passes_[kind];
        if (pass == 0) late = waited;
        if (learns) staging_.note(pass_work, learnt, ticks() - begin - waited);
      }
      if (is_shared) lane_count.note(work, 1, ticks() - call_begin - late);
      return;
    }
    const Stores learnt = stores(staging_of_lanes_, {work_kind, bytes}, lane_calls_++);
    const std::uint64_t begin = ticks();
    std::uint64_t waited = 0;
    open_lanes_.clear();
    for (int lane = 0; lane < passes.lanes; ++lane) open_lanes_.push_back({.lane = lane});
    for (;;) {
      helpers_.run(static_cast<int>(open_lanes_.size()), [&](int i) {
        Call mine = call;
        go_on(mine, passes, open_lanes_[static_cast<std::size_t>(i)]);
      });
      waited += open_lanes_.front().waited;
      std::erase_if(open_lanes_, [&](const LaneProgress& each) { return each.pass == passes.of_lane; });
      if (open_lanes_.empty()) break;
      // Only this thread waits for as long as it takes, and can fail.
      const bool late = open_lanes_.front().pass == 0;
      const std::uint64_t wait_begin = ticks();
      channels_[kind][static_cast<std::size_t>(open_lanes_.front().lane)].meet(call.record);
      if (late) waited += ticks() - wait_begin;
    }
    passes_[kind] += static_cast<std::size_t>(passes.of_lane);
    const std::uint64_t cost = ticks() - begin - waited;
    if (learns) staging_of_lanes_.note({work_kind, bytes}, learnt, cost);
    lane_count.note(work, passes.lanes, cost);
  }

 private:
  /// What the passes of a call have in common. Its blocks are cut into as many pieces as all lanes make
  /// passes.
  struct Passes {
    std::size_t kind = 0;
    int lanes = 1;
    int of_lane = 1;
    std::size_t slice_bytes = 0;  ///< of an area, for each lane
    View in;
    View out;
    Stores staging = Stores::cached;
    Stores pushing = Stores::cached;
  };

  struct LaneProgress {
    int lane = 0;
    int pass = 0;
    Progress in_pass{};
    std::uint64_t waited = 0;  ///< in its first pass, when it went on last
  };

  /// Goes on with a lane until it is through, or others are late.
  void go_on(Call& call, const Passes& passes, LaneProgress& lane) {
    lane.waited = 0;
    for (; lane.pass < passes.of_lane; ++lane.pass, lane.in_pass = {}) {
      const PassEnd end = run_pass_of(call, passes, lane, &lane.in_pass);
      if (lane.pass == 0) lane.waited = end.waited;
      if (!end.is_through) return;
    }
  }

  PassEnd run_pass_of(Call& call, const Passes& passes, const LaneProgress& at, Progress* progress) {
    call.blocks.cover(at.lane * passes.of_lane + at.pass);
    const std::size_t number =
        passes_[passes.kind] + static_cast<std::size_t>(passes.lanes == 1 ? 0 : at.pass);
    const std::size_t slice = passes.slice_bytes * static_cast<std::size_t>(at.lane);
    const PassBuffers buffers{.in = passes.in,
                              .out = passes.out,
                              .staged_in = area(passes.kind, 0, number, slice),
                              .staged_out = area(passes.kind, 1, number, slice),
                              .staging = passes.staging,
                              .pushing = passes.pushing,
                              .progress = progress};
    return run_pass(call, grids_[passes.kind], channels_[passes.kind][static_cast<std::size_t>(at.lane)],
                    buffers);
  }

  void use_threads(const std::vector<RankProcessors>& ranks, const RunPieces& workers) {
    const int processors = usable_processors(ranks);
    crowded_ = grid_.world.size > processors;
    const std::vector<ThreadShare> shares = threads_of(ranks);
    int of_all = 0;
    for (const ThreadShare& each : shares) of_all += each.threads;
    const auto own = static_cast<std::size_t>(grid_.rank());
    own_threads_ = shares[own].threads;
    // As many as the rank with the fewest has: others would wait for it. And a slice holds some of each
    // block.
    most_lanes_ = std::min(most_lanes, static_cast<int>(area_bytes_ / least_slice_bytes));
    for (const ThreadShare& each : shares) most_lanes_ = std::min(most_lanes_, each.threads);
    helpers_.workers = workers;
    shares_processors_ = of_all > processors;
    if (most_lanes_ == 1 || workers) return;
    helpers_.team = ThreadTeam::of_this_thread();
    if (shares_processors_ || own_threads_ > CPU_COUNT(&ranks[own].usable)) helpers_.team->share_processors();
  }

  static constexpr std::size_t areas = std::size_t{team_kinds} * 2 * 2;
  static constexpr std::size_t state_bytes = round_up(sizeof(Failure) + sizeof(RankState), page);

  /// passes_for() needs some granules of each block.
  static constexpr std::size_t least_slice_bytes = std::size_t{max_ranks} * granule * sizeof(float);

  static constexpr std::size_t most_elements = std::size_t{1} << 30U;  ///< that Blocks can cut

  /// Whether anything goes through the workspace; the same on all ranks of the call.
  [[nodiscard]] static bool is_staged(const Call& call) {
    const bool plain_in = call.in_placement.kind == Placement::Kind::plain;
    const bool plain_out = call.out_placement.kind == Placement::Kind::plain;
    return call.algorithm == Algorithm::one_shot ? !call.reads_in_place : plain_in || plain_out;
  }

  /// The view of a buffer in symmetric memory, as seen from rank 0's slice; empty for a plain one.
  [[nodiscard]] View direct(const Call::Seen& buffer) const {
    const auto* found =
        buffer.placement.kind == Placement::Kind::plain ? nullptr : allocations_.find(buffer.data, 0);
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
  ///
  /// `slice`: where a lane's part of it begins. Within a call lanes have slices of their own. The next call
  /// may cut areas otherwise: its first pass has the area that nobody has read since all came to the last
  /// passes of this one.
  [[nodiscard]] View area(std::size_t kind, std::size_t which, std::size_t pass, std::size_t slice) const {
    const std::size_t parity = current_mutant() == Mutant::one_workspace ? 0 : pass % 2;
    const std::size_t index = (kind * 2 + parity) * 2 + which;
    if (current_mutant() == Mutant::one_slice) slice = 0;
    std::byte* first = slices_.memory.get() + state_bytes + index * area_bytes_ + slice;
    const auto stride = static_cast<std::ptrdiff_t>(slices_.stride);
    if (pass / 2 % 2 == 0) return {first, stride, Coordinates::packed, true, false};
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
  ChannelShared of_helpers_;  ///< the same but for how they wait
  std::vector<Grid> grids_;
  std::vector<std::vector<Channel>> channels_;  ///< by team kind and lane
  std::array<std::size_t, team_kinds> passes_{};
  StagingStores staging_;
  int own_threads_ = 1;             ///< of this rank at most
  int most_lanes_ = 1;              ///< of a call; the same on all ranks
  bool shares_processors_ = false;  ///< more threads than processors
  Helpers helpers_;
  std::vector<LaneProgress> open_lanes_;  ///< of the call
  std::vector<LaneCount> lane_counts_;    ///< by team kind
  StagingStores staging_of_lanes_;        ///< by the size of the call
  std::size_t lane_calls_ = 0;
  static_assert(StagingStores::most_kinds == std::size_t{team_kinds} * 4);
  Allocations<std::size_t> allocations_;  ///< with their strides
};

}  // namespace

std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                      const CommunicatorOptions& options) {
  return std::make_unique<CpuBackend>(bootstrap, grid, options);
}

}  // namespace mixcomm::cpu
