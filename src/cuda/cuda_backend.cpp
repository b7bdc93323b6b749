#include "cuda/cuda_backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
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
#include "cuda/symmetric_memory.hpp"
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
    workspace_ = provider_->allocate(memory_bytes + team_kinds * layout_.bytes());
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
    if (call.epilogue.any() || call.dtype == DType::fp8_e4m3) refuse_epilogue(name(call.record.op));
    check_alignment(call);
    const UseDevice use(device_);
    const auto stream = static_cast<cudaStream_t>(call.stream);
    const Grid grid = grid_of(grid_, call.team);
    if (grid.world.size == 1 && call.device_rows == nullptr) {  // one block, and nothing to add to it
      if (call.in != call.out)
        check(cudaMemcpyAsync(call.out, call.in, call.blocks.elements() * size_of(call.dtype),
                              cudaMemcpyDeviceToDevice, stream),
              "copying the input to the output");
      return;
    }

    Arguments a = arguments(call, grid);
    if (*options_.check_agreement) {
      RecordWords mine{};
      std::memcpy(mine.word, &call.record, sizeof(mine));
      std::array<void*, 2> parameters{&a, &mine};
      check(cudaLaunchKernel(agreement_kernel(), dim3(1), dim3(agreement_threads), parameters.data(), 0,
                             stream),
            "launching the comparison of calls");
    }
    const bool direct = a.in_view.first != nullptr && a.out_view.first != nullptr;
    const Launch launch = launch_for(call, grid, direct, limits_);
    a.passes = static_cast<std::uint32_t>(launch.passes);
    a.workspace.lane_bytes = launch.lane_bytes;
    a.blocks = launch.blocks;
    launch_kernel(tables_[static_cast<std::size_t>(call.dtype)]
                      .kernel[call.gathers ? 1 : 0][static_cast<int>(launch.way)],
                  launch, a, stream);
  }

  void apply(const Epilogue& /*epilogue*/, const ConstTensor& /*in*/, const Tensor& /*out*/,
             void* /*stream*/) override {
    refuse_epilogue("apply");
  }

  void run_nccl(const Call& call) override {
    if (call.epilogue.any()) refuse_epilogue("algorithm nccl");
    if (nccl_ == nullptr) return Backend::run_nccl(call);
    const UseDevice use(device_);
    nccl_->run(call);
  }

 private:
  [[noreturn]] static void refuse_epilogue(std::string_view what) {
    throw Unsupported(fmt::format(
        "{}: backend cuda has no kernels for epilogues; call the operation without one, and add and norm by "
        "kernels of your own",
        what));
  }

  static constexpr std::size_t memory_bytes = round_up(sizeof(RankMemory), 4096);

  /// All kernels are brought onto the device now: in an operation that could wait for the kernels that wait
  /// for it.
  void load_kernels() {
    tables_ = {kernel_table<bf16>(), kernel_table<fp16>(), kernel_table<float>()};
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, agreement_kernel()), "loading a kernel");
    // Kernels built for older devices do not wait for the one before, so they must not come early.
    overlaps_launches_ = true;
    for (const KernelTable& table : tables_)
      for (const auto& row : table.kernel)
        for (void* kernel : row) {
          if (kernel == nullptr) continue;
          check(cudaFuncGetAttributes(&attributes, kernel), "loading a kernel");
          overlaps_launches_ = overlaps_launches_ && attributes.ptxVersion >= 90;
        }
  }

  /// Where peers find a symmetric buffer of mine; empty for one that must be staged. A pack of 16 bytes must
  /// never hold elements of two blocks, or of none.
  [[nodiscard]] View view_of(const Call& call, const Call::Seen& buffer) const {
    const auto* found =
        buffer.placement.kind == Placement::Kind::plain ? nullptr : allocations_.find(buffer.data, 0);
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
    for (const void* data : {call.in, static_cast<const void*>(call.out)})
      if (reinterpret_cast<std::uintptr_t>(data) % size_of(call.dtype) != 0)
        throw InvalidArgument(
            fmt::format("{}: the tensor at {} is not aligned to its {}-byte elements, as tensors on "
                        "CUDA must be; pass memory that is",
                        name(call.record.op), data, size_of(call.dtype)));
  }

  [[nodiscard]] Arguments arguments(const Call& call, const Grid& grid) const {
    Arguments a;
    a.grid = grid;
    a.workspace = layout_;
    a.workspace.first =
        workspace_.first + memory_bytes + static_cast<std::size_t>(call.team) * layout_.bytes();
    a.in = call.in;
    a.out = call.out;
    a.in_view = view_of(call, call.seen_input());
    a.out_view = view_of(call, call.seen_output());
    // Multicast reaches all ranks of the communicator, and only operations over all of them may use it.
    if (grid.world.size != grid_.world.size) a.out_view.multicast = nullptr;
    a.memory = reinterpret_cast<RankMemory*>(workspace_.of(grid_.rank()));
    a.failure = failure_.device_address();
    constexpr std::uint64_t longest = INT32_MAX / 2;  // 12 days
    a.timeout = static_cast<std::uint32_t>(
        std::min((static_cast<std::uint64_t>(options_.timeout.count()) * 1'000'000 >> 20U) + 1, longest));
    a.hidden = call.hidden;
    a.most_rows = call.most_rows;
    a.device_rows = call.device_rows;
    a.most_rows_each =
        static_cast<std::int64_t>(call.blocks.full_size(0) / std::max<std::size_t>(call.hidden, 1));
    a.number = call.record.number;
    a.op = static_cast<std::uint8_t>(call.record.op);
    a.team = static_cast<std::uint8_t>(call.team);
    a.mutant = MutantSwitch::current();
    return a;
  }

  void launch_kernel(void* kernel, const Launch& launch, Arguments& a, cudaStream_t stream) const {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(launch.lanes));
    config.blockDim = dim3(static_cast<unsigned>(launch.threads));
    config.stream = stream;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = overlaps_launches_ ? 1 : 0;
    std::array<void*, 1> parameters{&a};
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

}  // namespace mixcomm::cuda
