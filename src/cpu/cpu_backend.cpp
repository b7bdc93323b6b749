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
#include "cpu/helpers.hpp"
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

struct PassEnd {
  std::uint64_t waited = 0;  ///< how much of its time
  bool is_through = true;    ///< else it is to be run again
};

/// Runs one pass, or goes on with it.
template <class T>
PassEnd run_body(const Call& call, const Grid& grid, Channel& channel, const PassBuffers& buffers) {
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
  return {context.waited(), context.is_through()};
}

PassEnd run_pass(const Call& call, const Grid& grid, Channel& channel, const PassBuffers& buffers) {
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
               .lanes = most_lanes_,
               .check_agreement = options.check_agreement.value_or(true)};
    for (int k = 0; k < team_kinds; ++k) {
      const auto kind = static_cast<TeamKind>(k);
      grids_.push_back(grid_of(grid, kind));
      auto& channels = channels_.emplace_back();
      for (int lane = 0; lane < most_lanes_; ++lane)
        channels.emplace_back(shared_, kind, lane, grids_.back().world);
    }
    open_lanes_.reserve(static_cast<std::size_t>(most_lanes_));
  }

  SymmetricMemory allocate(std::size_t bytes) override {
    const Slices slices = share_slices(bootstrap_, bytes);
    return allocations_.add(slices.memory, slices.of(grid_.rank()), bytes, slices.stride);
  }

  DeviceLanes device_lanes(const DeviceLanesOptions& /*options*/) override { throw no_lanes(); }

  [[nodiscard]] Placement place(const void* data, std::size_t bytes) const override {
    return allocations_.place(data, bytes);
  }

  [[nodiscard]] int threads() const override { return own_threads_; }
  [[nodiscard]] int lanes_of_calls() const override { return most_lanes_; }

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
    // A pass holds what the workspace does, or everything where it is not needed.
    const bool staged = is_staged(call);
    const bool changes_hands = staged && grid.world.size == 2 && call.algorithm == Algorithm::one_shot;
    Passes passes{.kind = kind,
                  .grid = grid,
                  .lanes = lanes_of(call, grid),
                  .in = direct(call.seen_input()),
                  .out = direct(call.seen_output())};
    const std::size_t room = slice_bytes(passes.lanes);
    const std::size_t bytes = changes_hands ? std::min(room, most_kept_bytes) : room;
    passes.of_lane = cut(call, grid, staged ? bytes / staged_bytes(call) : most_elements, passes.lanes);

    const std::size_t call_bytes = call.blocks.elements() * size_of(call.dtype);
    const StagingStores::Work work{kind * 8 + (call.epilogue.any() ? 4 : 0) +
                                       (call.body == Body::gather ? 2 : 0) +
                                       (call.algorithm == Algorithm::one_shot ? 1 : 0),
                                   call_bytes / static_cast<std::size_t>(passes.lanes)};
    const ThreadCount::Work shared_work{work.kind * 2 + (staged ? 1 : 0), call_bytes};
    if (passes.lanes > 1) passes.threads = thread_count_->choose(shared_work, passes.lanes);
    if (passes.threads > 1 && helpers_.team) helpers_.team->rouse(passes.threads);
    const Stores learnt = staging_.choose(work);
    // Ranks that share a processor share its caches, others do not: then which stores push better is
    // measured, too. Two ranks already have the lines that they stage in, if all of them are read.
    const bool learns = crowded_ || (staged && !changes_hands);
    passes.staging = changes_hands ? Stores::cached : learnt;
    passes.pushing = crowded_ ? learnt : Stores::streamed;
    const std::uint64_t begin = ticks();
    const std::uint64_t waited = passes.lanes == 1 ? run_alone(call, passes) : run_lanes(call, passes);
    passes_[kind] += static_cast<std::size_t>(passes.of_lane);
    const std::uint64_t cost = ticks() - begin - waited;
    if (learns) staging_.note(work, learnt, cost);
    if (passes.lanes > 1) thread_count_->note(shared_work, passes.threads, cost);
  }

 private:
  /// What the passes of a call have in common. Its blocks are cut into as many pieces as all lanes make
  /// passes.
  struct Passes {
    std::size_t kind = 0;
    Grid grid;  ///< the call's part of this backend's
    int lanes = 1;
    int of_lane = 1;
    int threads = 1;  ///< of this rank
    View in;
    View out;
    Stores staging = Stores::cached;
    Stores pushing = Stores::streamed;
  };
  /// Lines of its own: whoever carries the lane writes it.
  struct alignas(line_bytes) LaneProgress {
    int lane = 0;
    int pass = 0;
    Progress in_pass{};
    std::uint64_t waited = 0;  ///< when it went on last
  };

  /// All passes, by the calling thread; returns how much of its time it waited.
  std::uint64_t run_alone(Call& call, const Passes& passes) {
    std::uint64_t waited = 0;
    for (int pass = 0; pass < passes.of_lane; ++pass)
      waited += run_pass_of(call, passes, {.lane = 0, .pass = pass}, nullptr).waited;
    return waited;
  }

  /// Lane by lane, with whoever helps.
  std::uint64_t run_lanes(const Call& call, const Passes& passes) {
    std::uint64_t waited = 0;
    // Who has several lanes goes on with the next one instead of waiting.
    const int spins = shares_processors_ || passes.threads < passes.lanes ? 1 : shared_.spins;
    open_lanes_.clear();
    for (int lane = 0; lane < passes.lanes; ++lane)
      open_lanes_.push_back({.lane = lane, .in_pass = {.spins = spins}});
    for (;;) {
      const auto open = open_lanes_.size();
      const auto pieces = std::min(open, static_cast<std::size_t>(passes.threads));
      helpers_.run(static_cast<int>(pieces), [&](int piece) {
        Call mine = call;
        for (auto i = static_cast<std::size_t>(piece); i < open; i += pieces)
          go_on(mine, passes, open_lanes_[i]);
      });
      waited += open_lanes_.front().waited;
      std::erase_if(open_lanes_, [&](const LaneProgress& each) { return each.pass == passes.of_lane; });
      if (open_lanes_.empty()) return waited;
      // Only this thread waits for as long as it takes, and can fail.
      const std::uint64_t begin = ticks();
      channels_[passes.kind][static_cast<std::size_t>(open_lanes_.front().lane)].meet(call.record);
      waited += ticks() - begin;
    }
  }

  /// Goes on with a lane until it is through, or others are late.
  void go_on(Call& call, const Passes& passes, LaneProgress& lane) {
    lane.waited = 0;
    for (; lane.pass < passes.of_lane; ++lane.pass, lane.in_pass = {.spins = lane.in_pass.spins}) {
      const PassEnd end = run_pass_of(call, passes, lane, &lane.in_pass);
      lane.waited += end.waited;
      if (!end.is_through) return;
    }
  }

  PassEnd run_pass_of(Call& call, const Passes& passes, const LaneProgress& at, Progress* progress) {
    call.blocks.cover(at.lane * passes.of_lane + at.pass);
    const auto view = [&](std::size_t which) {
      return area({.kind = passes.kind,
                   .which = which,
                   .pass = passes_[passes.kind] + static_cast<std::size_t>(at.pass),
                   .slice = slice_bytes(passes.lanes) * static_cast<std::size_t>(at.lane)});
    };
    const PassBuffers buffers{.in = passes.in,
                              .out = passes.out,
                              .staged_in = view(0),
                              .staged_out = view(1),
                              .staged_kept = view(2),
                              .staged_scales = view(3),
                              .staging = passes.staging,
                              .pushing = passes.pushing,
                              .progress = progress};
    return run_pass(call, passes.grid, channels_[passes.kind][static_cast<std::size_t>(at.lane)], buffers);
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
    most_lanes_ = std::min(lanes_at_most, static_cast<int>(area_bytes_ / least_slice_bytes));
    for (const ThreadShare& each : shares) most_lanes_ = std::min(most_lanes_, each.threads);
    most_lanes_ = std::max(most_lanes_, 1);
    thread_count_.emplace(most_lanes_, StagingStores::most_kinds * 2);
    helpers_.workers = workers;
    shares_processors_ = of_all > processors;
    if (most_lanes_ == 1 || workers) return;
    helpers_.team = ThreadTeam::of_this_thread();
    if (shares_processors_ || own_threads_ > CPU_COUNT(&ranks[own].usable)) helpers_.team->share_processors();
  }

  static constexpr std::size_t areas_each = 4;  ///< input; output, or residuals; for residual_out; scales
  static constexpr std::size_t areas = std::size_t{team_kinds} * 2 * areas_each;
  static constexpr std::size_t state_bytes = round_up(sizeof(Failure) + sizeof(RankState), page);

  /// passes_for() needs some granules of each block.
  static constexpr std::size_t least_slice_bytes = std::size_t{max_ranks} * granule * sizeof(float);

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

  /// What each of so many lanes has of an area.
  [[nodiscard]] std::size_t slice_bytes(int lanes) const {
    return lanes == 1 ? area_bytes_ : area_bytes_ / static_cast<std::size_t>(lanes) / page * page;
  }

  /// How many lanes a call has: the same on all ranks. Rows with an epilogue stay whole, one for each rank
  /// that sums, and one of each DP rank in a slice.
  [[nodiscard]] int lanes_of(const Call& call, const Grid& grid) const {
    int lanes = lanes_for(call.blocks.elements() * size_of(call.dtype), most_lanes_);
    if (lanes == 1 || !call.epilogue.any()) return lanes;
    const std::size_t rows = call.blocks.elements() / call.hidden / static_cast<std::size_t>(grid.tp.size);
    lanes = std::clamp(static_cast<int>(std::min<std::size_t>(rows, lanes_at_most)), 1, lanes);
    while (lanes > 1 && slice_bytes(lanes) < least_elements(call, grid) * staged_bytes(call)) --lanes;
    return lanes;
  }

  /// Of a pass with an epilogue: a row of each DP rank.
  [[nodiscard]] static std::size_t least_elements(const Call& call, const Grid& grid) {
    std::size_t least = 0;
    for (int d = 0; d < grid.dp.size; ++d) least += call.blocks.full_size(d) > 0 ? call.hidden : 0;
    return least;
  }

  /// Cuts the blocks into passes of `capacity` elements at most, of whole rows where there is an epilogue;
  /// how many each lane makes.
  static int cut(Call& call, const Grid& grid, std::size_t capacity, int lanes) {
    if (!call.epilogue.any()) return passes_for(call.blocks, capacity, granule, lanes);
    const std::size_t least = least_elements(call, grid);
    if (least > capacity)
      throw InvalidArgument(fmt::format(
          "{}: with an epilogue a pass holds a row of each DP rank, together {} elements of up to {} bytes, "
          "but "
          "the workspace has room for {}; make the communicator with workspace_bytes of {} or more",
          name(call.record.op), least, staged_bytes(call), capacity, least * staged_bytes(call)));
    return passes_for(call.blocks, capacity, call.hidden, lanes);
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

  /// One of a pass.
  struct Area {
    std::size_t kind = 0;
    std::size_t which = 0;
    std::size_t pass = 0;
    std::size_t slice = 0;  ///< where the lane's part of it begins
  };
  /// Areas alternate from pass to pass: when a rank writes one again, all have come to the pass in between,
  /// so none reads the old contents any more. And they change hands, the first rank's with the last one's:
  /// two ranks so write where they have just read, in lines that need not be taken back from the other's
  /// cache (3 instead of 8 ns each where they share a cache). Which lines those are depends on the block,
  /// too.
  ///
  /// Within a call lanes have slices of their own. The next call may cut areas otherwise: its first pass has
  /// the area that nobody has read since all came to the last passes of this one.
  [[nodiscard]] View area(const Area& of) const {
    const std::size_t parity = current_mutant() == Mutant::one_workspace ? 0 : of.pass % 2;
    const std::size_t index = (of.kind * 2 + parity) * areas_each + of.which;
    const std::size_t slice = current_mutant() == Mutant::one_slice ? 0 : of.slice;
    std::byte* first = slices_.memory.get() + state_bytes + index * area_bytes_ + slice;
    const auto stride = static_cast<std::ptrdiff_t>(slices_.stride);
    if (of.pass / 2 % 2 == 0) return {first, stride, Coordinates::packed, true, false};
    const Team& team = grids_[of.kind].world;
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
  std::vector<std::vector<Channel>> channels_;  ///< by team kind and lane
  std::array<std::size_t, team_kinds> passes_{};
  StagingStores staging_;
  int own_threads_ = 1;  ///< of this rank at most
  int most_lanes_ = 1;   ///< of a call; the same on all ranks
  bool shares_processors_ = false;
  std::optional<ThreadCount> thread_count_;
  Helpers helpers_;
  std::vector<LaneProgress> open_lanes_;  ///< of the call
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
