#include "cuda/cuda_backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "all_or_none.hpp"
#include "allocations.hpp"
#include "cuda/agreement.hpp"
#include "cuda/driver.hpp"
#include "cuda/failure.hpp"
#include "cuda/launch.hpp"
#include "cuda/links.hpp"
#include "cuda/nccl_collectives.hpp"
#include "cuda/row_kernels.hpp"
#include "cuda/row_launch.hpp"
#include "cuda/symmetric_memory.hpp"
#include "environment.hpp"
#include "mixcomm/device/lanes.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {

namespace {

constexpr std::size_t pack_bytes = 16;

int resolve_device(int device) {
  int count = 0;
  check(cudaGetDeviceCount(&count), "looking for CUDA devices");
  if (device < 0) check(cudaGetDevice(&device), "asking for the current CUDA device");
  if (device >= count)
    throw InvalidArgument(
        fmt::format("CUDA device {} was asked for, but there are {}; they count from 0", device, count));
  return device;
}

/// The most lanes of an operation. Kernels that wait for each other must all be running, so where ranks share
/// a device, their lanes, and those of the next operation that may have come early, must find room beside
/// each other. More than that: whatever a rank runs before its operation must find SMs that are free
/// altogether (one that is in use takes no kernel that divides its shared memory differently), while the
/// others' kernels wait for that rank. So the lanes of all ranks together take half of the SMs at most,
/// unless the caller asks for more. Collective.
int agreed_lanes(Bootstrap& bootstrap, int device, int asked) {
  struct Mine {
    cudaUUID_t uuid;
    int processors;
    int asked;
  };
  const auto all = all_or_none(bootstrap, "comparing devices", [&] {
    if (asked < 0 || asked > most_lanes)
      throw InvalidArgument(fmt::format("max_lanes is {}; it may be 1 to {}, or 0 for the library's choice",
                                        asked, most_lanes));
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), "asking for the device's properties");
    const Mine mine{properties.uuid, properties.multiProcessorCount, asked};
    return std::string(reinterpret_cast<const char*>(&mine), sizeof(mine));
  });
  int lanes = most_lanes;
  for (const std::string& each : all) {
    Mine theirs{};
    std::memcpy(&theirs, each.data(), std::min(sizeof(theirs), each.size()));
    const auto sharing = std::count_if(all.begin(), all.end(), [&](const std::string& other) {
      return other.compare(0, sizeof(cudaUUID_t), each, 0, sizeof(cudaUUID_t)) == 0;
    });
    const int share = theirs.processors / static_cast<int>(sharing);
    const int room = theirs.asked > 0 || sharing == 1 ? share : share / 2;
    lanes = std::min({lanes, theirs.asked > 0 ? theirs.asked : most_lanes, room});
  }
  return std::max(lanes, 1);
}

class CudaBackend final : public Backend {
 public:
  /// `device` is the calling thread's current one.
  CudaBackend(Bootstrap& bootstrap, const Grid& grid, const CommunicatorOptions& options, int device)
      : grid_(grid),
        device_(device),
        options_(options),
        provider_(make_memory_provider(bootstrap, device_, options.cuda, options.timeout)),
        link_(slowest_link(bootstrap, device_)),
        limits_(limits_for(agreed_lanes(bootstrap, device_, options.cuda.max_lanes), options.workspace_bytes,
                           options.cuda.lines && link_ != Link::pcie)),
        failure_(grid, options.timeout) {
    if (options.cuda.protocol == Protocol::lines && !limits_.lines)
      throw Unsupported(fmt::format(
          "protocol lines: {}; use auto, packets or barriers",
          options.cuda.lines ? "not all GPUs are joined by NVLink ('mixcomm info' lists the links)"
                             : "lines are switched off, by CudaOptions::lines or MIXCOMM_DISABLE"));
    layout_.area_bytes = limits_.area_bytes;
    // My slice: what my kernels keep, then a workspace per team kind.
    workspace_ = provider_->allocate(memory_bytes + team_kinds * team_bytes());
    layout_.stride = workspace_.stride;
    load_kernels();
    int capability = 0;
    check(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device_),
          "asking for the capability");
    overlaps_launches_ = overlaps_launches_ && capability >= 9;
    if (options.cuda.nccl != nullptr) nccl_ = make_nccl_collectives(bootstrap, options.cuda.nccl, grid);
  }

  SymmetricMemory allocate(std::size_t bytes) override {
    const UseDevice use(device_);
    const Slices slices = provider_->allocate(bytes);
    return allocations_.add(slices.owner, slices.of(grid_.rank()), bytes,
                            {slices.first, slices.stride, slices.multicast, Coordinates::all_blocks});
  }

  [[nodiscard]] int most_lanes() const override { return limits_.most_lanes; }
  DeviceLanes device_lanes(const DeviceLanesOptions& options) override {
    const UseDevice use(device_);
    // My slice: the lanes' counters, then the workspace.
    constexpr std::size_t counters_bytes = round_up(sizeof(LaneState) * cuda::most_lanes, 4096);
    device::Handle handle;
    handle.workspace.area_bytes = limits_for(options.lanes, options.bytes, false).area_bytes;
    handle.workspace.lane_bytes = lane_bytes_of(handle.workspace.area_bytes, options.lanes);
    const Slices slices = provider_->allocate(counters_bytes + handle.workspace.bytes());
    handle.grid = grid_of(grid_, options.team);
    handle.workspace.first = slices.first + counters_bytes;
    handle.workspace.stride = slices.stride;
    handle.lanes = reinterpret_cast<LaneState*>(slices.of(grid_.rank()));
    handle.memory = memory();
    handle.failure = failure_.device_address();
    handle.timeout = timeout();
    handle.team = static_cast<std::uint8_t>(options.team);
    return {slices.owner, handle, options.lanes};
  }

  [[nodiscard]] Placement place(const void* data, std::size_t bytes) const override {
    return allocations_.place(data, bytes);
  }

  void settle() override {
    provider_->check_can_pause();
    const UseDevice use(device_);
    check(cudaDeviceSynchronize(), "waiting for the device before a pause");
    failure_.rethrow();
  }
  void pause() override { provider_->pause(); }
  /// Zeroed memory is what all counters, flags and packets begin with, on every rank.
  void resume() override { provider_->resume(); }

  [[nodiscard]] std::string machine() const override { return machine_name(device_, link_); }
  [[nodiscard]] Link link() const override { return link_; }
  [[nodiscard]] bool crowded() const override { return false; }
  [[nodiscard]] BackendKind kind() const override { return BackendKind::cuda; }
  [[nodiscard]] int device() const override { return device_; }
  [[nodiscard]] KernelState kernel_state() const {
    return {memory(), failure_.device_address()};
  }
  void check_alive() const override { failure_.rethrow(); }

  void copy(const RowCopy& copy, void* stream) override {
    const UseDevice use(device_);
    check(cudaMemcpy2DAsync(copy.to, copy.to_pitch, copy.from, copy.from_pitch, copy.width, copy.rows,
                            cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream)),
          "copying rows");
  }

  void clear(void* data, std::size_t bytes, void* stream) override {
    const UseDevice use(device_);
    check(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(stream)), "clearing rows");
  }

  void run(Call& call) override {
    failure_.rethrow();
    if (call.dtype == DType::fp8_e4m3) take_in_pairs(call);
    check_alignment(call);
    const UseDevice use(device_);
    const auto stream = static_cast<cudaStream_t>(call.stream);
    const Grid grid = call.part_of(grid_);
    const bool then_more = call.epilogue.any();
    if (grid.world.size == 1 && call.device_rows == nullptr &&
        !then_more) {  // one block, and nothing to add to it
      if (call.in != call.out)
        check(cudaMemcpyAsync(call.out, call.in, call.blocks.elements() * size_of(call.dtype),
                              cudaMemcpyDeviceToDevice, stream),
              "copying the input to the output");
      return;
    }

    if (*options_.check_agreement) {
      Arguments a = arguments(call, grid);
      RecordWords mine{};
      std::memcpy(mine.word, &call.record, sizeof(mine));
      std::array<void*, 2> parameters{&a, &mine};
      check(cudaLaunchKernel(agreement_kernel(), dim3(1), dim3(agreement_threads), parameters.data(), 0,
                             stream),
            "launching the comparison of calls");
    }
    if constexpr (has_mutants) plant(call);
    if (then_more)
      run_rows(call, grid, stream, false);
    else
      run_elements(call, grid, stream);
  }

  /// As an operation of one rank, which nobody else hears of.
  void apply(const Epilogue& epilogue, const ConstTensor& in, const Tensor& out, void* stream) override {
    failure_.rethrow();
    Call call;
    call.algorithm = Algorithm::one_shot;
    call.dtype = in.dtype;
    call.in = in.data;
    call.out = out.data;
    call.blocks = Blocks(1, [&](int) { return in.elements(); });
    call.hidden = in.hidden;
    call.epilogue = epilogue;
    call.record.op = Op::all_reduce;
    check_alignment(call);
    const UseDevice use(device_);
    const Team alone = Team::alone(grid_.rank());
    run_rows(call, {alone, alone, alone}, static_cast<cudaStream_t>(stream), true);
  }

  void run_nccl(const Call& call) override {
    if (nccl_ == nullptr) throw no_nccl();
    const UseDevice use(device_);
    nccl_->run(call);
  }

 private:
  /// Mutants of epilogues that lie in what a call says, for all lanes alike.
  static void plant(Call& call) {
    const MutantSwitch mutant = MutantSwitch::current();
    Epilogue& epilogue = call.epilogue;
    if (mutant.is(Mutant::scale_of_another_row) && epilogue.scales != nullptr)
      epilogue.scales += scales_per_row(epilogue.quantize, call.hidden);
    if (mutant.is(Mutant::rows_beyond_are_normed) && epilogue.any()) {
      const Blocks told = call.blocks;
      const int last = told.dp() - 1;
      call.blocks.assign(told.dp(), [&](int d) { return told.full_size(d) + (d == last ? call.hidden : 0); });
    }
  }

  void run_elements(const Call& call, const Grid& grid, cudaStream_t stream) const {
    Arguments a = arguments(call, grid);
    const bool direct = a.in_view.first != nullptr && a.out_view.first != nullptr;
    const Launch launch = launch_for(call, grid, direct, limits_);
    a.passes = static_cast<std::uint32_t>(launch.passes);
    a.workspace.lane_bytes = launch.lane_bytes;
    a.blocks = launch.blocks;
    launch_kernel(tables_[static_cast<std::size_t>(call.dtype)].of(call.body, launch.way),
                  {launch.lanes, launch.threads, launch.shared_bytes}, &a, stream);
  }

  /// `local`: by this rank alone, whose counters stay as they are.
  void run_rows(const Call& call, const Grid& grid, cudaStream_t stream, bool local) const {
    const Epilogue& epilogue = call.epilogue;
    const RowLaunch launch = row_launch_for(call, grid, limits_);
    RowArguments a;
    a.call = arguments(call, grid);
    a.call.in_view = a.call.out_view = {};  // messages touch no buffer of another rank
    a.call.hidden = 1;
    a.call.passes = static_cast<std::uint32_t>(launch.passes);
    a.call.workspace.lane_bytes = launch.lane_bytes;
    a.call.blocks = launch.blocks;
    a.epilogue = {.residual = epilogue.residual.data,
                  .residual_out = epilogue.residual_out.data,
                  .weight = epilogue.norms() ? epilogue.weight.data : nullptr,
                  .scales = epilogue.scales,
                  .fixed_scale = epilogue.fixed_scale,
                  .eps = epilogue.eps,
                  .adds = epilogue.adds(),
                  .keeps = epilogue.keeps(),
                  .weight_plus_one = epilogue.weight_plus_one,
                  .quantize = epilogue.quantize};
    a.images = launch.images;
    a.deal = launch.deal;
    a.out_deal = launch.out_deal;
    a.hidden = static_cast<std::uint32_t>(call.hidden);
    if (std::has_single_bit(call.hidden)) a.one_over_hidden = 1.0F / static_cast<float>(call.hidden);
    a.weight_bytes = static_cast<std::uint32_t>(launch.weight_bytes);
    a.rows_at_once = launch.rows_at_once;
    a.images_in_workspace = launch.images_in_workspace;
    a.local = local;
    const bool one_shot = call.algorithm != Algorithm::two_shot;
    launch_kernel(row_tables_[static_cast<std::size_t>(call.dtype)].of(launch.kind, call.body, one_shot),
                  {launch.lanes, launch.threads, launch.shared_bytes}, &a, stream);
  }

  /// FP8 is never summed, only gathered, bit by bit: as elements of two bytes.
  static void take_in_pairs(Call& call) {
    bool even = reinterpret_cast<std::uintptr_t>(call.in) % 2 == 0 &&
                reinterpret_cast<std::uintptr_t>(call.out) % 2 == 0;
    for (int d = 0; d < call.blocks.dp(); ++d) even = even && call.blocks.full_size(d) % 2 == 0;
    if (!even)
      throw Unsupported(
          fmt::format("{}: algorithm composed gathers FP8 rows of hidden {} on CUDA two bytes at a time, so "
                      "rows and tensors must begin at even addresses; use auto, one_shot or two_shot",
                      name(call.record.op), call.hidden));
    const Blocks bytes = call.blocks;
    call.blocks.assign(bytes.dp(), [&](int d) { return bytes.full_size(d) / 2; });
    call.dtype = DType::bf16;
  }

  static constexpr std::size_t memory_bytes = round_up(sizeof(RankMemory), 4096);

  /// All kernels are brought onto the device now: in an operation that could wait for the kernels that wait
  /// for it.
  void load_kernels() {
    tables_ = {kernel_table<bf16>(), kernel_table<fp16>(), kernel_table<float>()};
    row_tables_ = {row_kernel_table<bf16>(), row_kernel_table<fp16>(), row_kernel_table<float>()};
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, agreement_kernel()), "loading a kernel");
    // Kernels built for older devices do not wait for the one before, so they must not come early.
    overlaps_launches_ = true;
    const auto load = [&](void* kernel) {
      if (kernel == nullptr) return;
      check(cudaFuncGetAttributes(&attributes, kernel), "loading a kernel");
      overlaps_launches_ = overlaps_launches_ && attributes.ptxVersion >= 90;
    };
    for (const KernelTable& table : tables_)
      for (const auto& row : table.kernel) std::for_each(std::begin(row), std::end(row), load);
    for (const RowKernelTable& table : row_tables_)
      for (const auto& wire : table.kernel)
        for (const auto& body : wire) std::for_each(std::begin(body), std::end(body), load);
  }

  /// Where peers find a symmetric buffer of mine; empty for one that must be staged. A pack of 16 bytes must
  /// never hold elements of two blocks, or of none.
  [[nodiscard]] View view_of(const Call& call, const Call::Seen& buffer) const {
    const auto* found = allocations_.of(buffer.placement);
    if (found == nullptr || reinterpret_cast<std::uintptr_t>(buffer.data) % pack_bytes != 0) return {};
    const std::size_t element = size_of(call.dtype);
    if (call.device_rows != nullptr && call.hidden * element % pack_bytes != 0) return {};
    for (int d = 0; d < call.blocks.dp(); ++d)
      if (call.blocks.full_size(d) * element % pack_bytes != 0) return {};
    const std::ptrdiff_t offset = static_cast<const std::byte*>(buffer.data) - found->mine;
    View view = found->where;
    view.first += offset;
    if (view.multicast != nullptr) view.multicast += offset;
    view.coordinates = buffer.all_blocks ? Coordinates::all_blocks : Coordinates::one_block;
    return view;
  }

  /// Host-side rule of the kernels' element by element copies.
  static void check_alignment(const Call& call) {
    const std::size_t element = size_of(call.dtype);
    const Epilogue& epilogue = call.epilogue;
    for (const auto& [data, bytes] : {std::pair<const void*, std::size_t>{call.in, element},
                                      {call.out, epilogue.quantizes() ? std::size_t{1} : element},
                                      {epilogue.residual.data, element},
                                      {epilogue.residual_out.data, element},
                                      {epilogue.weight.data, element}})
      if (reinterpret_cast<std::uintptr_t>(data) % bytes != 0)
        throw InvalidArgument(
            fmt::format("{}: the tensor at {} is not aligned to its {}-byte elements, as tensors on "
                        "CUDA must be; pass memory that is",
                        name(call.record.op), data, bytes));
  }

  [[nodiscard]] Arguments arguments(const Call& call, const Grid& grid) const {
    Arguments a;
    a.grid = grid;
    a.workspace = layout_;
    a.workspace.first = workspace_.first + memory_bytes + static_cast<std::size_t>(call.team) * team_bytes();
    a.in = call.in;
    a.out = call.out;
    a.in_view = view_of(call, call.seen_input());
    a.out_view = view_of(call, call.seen_output());
    // Multicast reaches all ranks of the communicator, and only operations over all of them may use it.
    if (grid.world.size != grid_.world.size) a.out_view.multicast = nullptr;
    a.memory = memory();
    a.lanes = a.memory->lanes[static_cast<std::size_t>(call.team)];
    a.failure = failure_.device_address();
    a.timeout = timeout();
    a.hidden = call.hidden;
    a.most_rows = call.most_rows;
    a.device_rows = call.device_rows;
    a.most_rows_each =
        static_cast<std::int64_t>(call.blocks.full_size(0) / std::max<std::size_t>(call.hidden, 1));
    a.number = call.record.number >> call.record.part_bits;
    a.op = static_cast<std::uint8_t>(call.record.op);
    a.team = static_cast<std::uint8_t>(call.team);
    a.mutant = MutantSwitch::current();
    return a;
  }

  /// What my kernels keep.
  [[nodiscard]] RankMemory* memory() const {
    return reinterpret_cast<RankMemory*>(workspace_.of(grid_.rank()));
  }
  /// As kernels count it.
  [[nodiscard]] std::uint32_t timeout() const {
    constexpr std::uint64_t longest = INT32_MAX / 2;  // 12 days
    return static_cast<std::uint32_t>(
        std::min((static_cast<std::uint64_t>(options_.timeout.count()) * 1'000'000 >> 20U) + 1, longest));
  }
  /// A team kind's workspace, and where it compares calls.
  [[nodiscard]] std::size_t team_bytes() const { return layout_.bytes() + records_bytes; }

  struct Extent {
    int lanes;
    int threads;
    std::size_t shared_bytes;
  };
  /// `arguments`: what the kernel takes.
  void launch_kernel(void* kernel, const Extent& extent, void* arguments, cudaStream_t stream) const {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(extent.lanes));
    config.blockDim = dim3(static_cast<unsigned>(extent.threads));
    config.dynamicSmemBytes = extent.shared_bytes;
    config.stream = stream;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = overlaps_launches_ ? 1 : 0;
    std::array<void*, 1> parameters{arguments};
    check(cudaLaunchKernelExC(&config, kernel, parameters.data()), "launching an operation");
  }

  Grid grid_;
  int device_;
  CommunicatorOptions options_;
  std::unique_ptr<MemoryProvider> provider_;
  Link link_;
  LaunchLimits limits_;
  FailureBox failure_;
  Slices workspace_;
  Workspace layout_;  ///< of a team kind's workspace; `first` and `lane_bytes` are left out
  std::array<KernelTable, 3> tables_{};  ///< by dtype
  std::array<RowKernelTable, 3> row_tables_{};
  bool overlaps_launches_ = false;
  Allocations<View> allocations_;  ///< each as a view from its first byte on
  std::unique_ptr<NcclCollectives> nccl_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                      const CommunicatorOptions& options) {
  if (grid.world.size > most_ranks)
    throw Unsupported(fmt::format("backend cuda serves at most {} ranks in one communicator, not {}",
                                  most_ranks, grid.world.size));
  const int device = resolve_device(options.cuda.device);
  const UseDevice use(device);
  return std::make_unique<CudaBackend>(bootstrap, grid, options, device);
}

KernelState kernel_state_of(const Backend& backend) {
  return static_cast<const CudaBackend&>(backend).kernel_state();
}

}  // namespace mixcomm::cuda
