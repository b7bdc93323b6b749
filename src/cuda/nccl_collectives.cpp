#include "cuda/nccl_collectives.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "all_or_none.hpp"
#include "cuda/driver.hpp"
#include "cuda/nccl_library.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return ncclBfloat16;
    case DType::fp16:
      return ncclFloat16;
    case DType::fp32:
    case DType::fp8_e4m3:  // never summed
      break;
  }
  return ncclFloat32;
}

/// A communicator that was split off, destroyed with this; or null.
class Split {
 public:
  Split() = default;
  /// Collective over the ranks of `all`: those with one `color` come together, in the order of `key`.
  Split(ncclComm_t all, int color, int key, const std::string& what) {
    const NcclLibrary& nccl = nccl_library();
    // A null configuration: the new communicator takes over the caller's (how many SMs it may use, say).
    auto made = std::make_unique<ncclComm_t>(nullptr);
    try {
      finish(nccl.comm_split(all, color, key, made.get(), nullptr), all, what, default_timeout);
      finish(ncclInProgress, *made, what, default_timeout);
    } catch (const Timeout&) {
      (void)made.release();  // NCCL may write to it yet
      throw;
    }
    comm_ = *made;
  }
  ~Split() {
    if (comm_ != nullptr) (void)nccl_library().comm_destroy(comm_);
  }
  Split(Split&& other) noexcept : comm_(std::exchange(other.comm_, nullptr)) {}
  Split& operator=(Split&& other) noexcept {
    std::swap(comm_, other.comm_);
    return *this;
  }
  Split(const Split&) = delete;
  Split& operator=(const Split&) = delete;

  [[nodiscard]] ncclComm_t get() const { return comm_; }

 private:
  ncclComm_t comm_ = nullptr;
};

/// On the calling thread's current device.
void check_fits(ncclComm_t comm, const Grid& grid) {
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current CUDA device");
  check_members(comm, grid.world.size, grid.rank(), device, default_timeout);
}

bool are_even(const Blocks& blocks) {
  for (int d = 1; d < blocks.dp(); ++d)
    if (blocks.full_size(d) != blocks.full_size(0)) return false;
  return true;
}

/// One operation on one team's communicator.
class Operation {
 public:
  Operation(const Call& call, ncclComm_t comm, int member)
      : call_(call),
        comm_(comm),
        member_(member),
        type_(type_of(call.dtype)),
        stream_(static_cast<cudaStream_t>(call.stream)) {}

  void all_reduce() const {
    end(nccl_.all_reduce(call_.in, call_.out, call_.blocks.elements(), type_, ncclSum, comm_, stream_));
  }

  void all_gather() const {
    if (are_even(call_.blocks))
      return end(nccl_.all_gather(call_.in, call_.out, call_.blocks.full_size(0), type_, comm_, stream_));
    auto* const all = static_cast<std::byte*>(call_.out);
    each_block([&](int d, std::size_t elements) {
      std::byte* const block = all + offset(d);
      return nccl_.broadcast(d == member_ ? call_.in : block, block, elements, type_, d, comm_, stream_);
    });
  }

  void reduce_scatter() const {
    if (are_even(call_.blocks))
      return end(nccl_.reduce_scatter(call_.in, call_.out, call_.blocks.full_size(0), type_, ncclSum, comm_,
                                      stream_));
    const auto* const all = static_cast<const std::byte*>(call_.in);
    each_block([&](int d, std::size_t elements) {
      return nccl_.reduce(all + offset(d), d == member_ ? call_.out : nullptr, elements, type_, ncclSum, d,
                          comm_, stream_);
    });
  }

 private:
  /// In bytes, in the tensor with all blocks.
  [[nodiscard]] std::size_t offset(int d) const { return call_.blocks.offset(d) * size_of(call_.dtype); }

  /// In one group, so that the blocks travel at the same time. All ranks know all sizes, and leave out the
  /// same ones.
  template <class F>
  void each_block(const F& collective) const {
    ncclResult_t first_error = nccl_.group_start();
    end(first_error);
    for (int d = 0; d < call_.blocks.dp() && first_error == ncclSuccess; ++d) {
      const std::size_t elements = call_.blocks.full_size(d);
      if (elements == 0) continue;
      const ncclResult_t result = collective(d, elements);
      if (result != ncclInProgress) first_error = result;
    }
    const ncclResult_t result = nccl_.group_end();  // also after an error, or the group would stay open
    end(first_error == ncclSuccess ? result : first_error);
  }

  void end(ncclResult_t result) const {
    if (result == ncclSuccess) return;
    finish(result, comm_, fmt::format("{} through NCCL", name(call_.record.op)), default_timeout);
  }

  const NcclLibrary& nccl_ = nccl_library();
  const Call& call_;
  ncclComm_t comm_;
  int member_;
  ncclDataType_t type_;
  cudaStream_t stream_;
};

}  // namespace

struct NcclCollectives::State {
  State(ncclComm_t all_ranks, const Grid& of) : grid(of), all(all_ranks) {
    check_fits(all, grid);
    if (grid.tp.size == 1 || grid.dp.size == 1) return;
    tp = Split(all, grid.dp.member, grid.tp.member, "splitting the NCCL communicator by DP ranks");
    dp = Split(all, grid.tp.member, grid.dp.member, "splitting the NCCL communicator by TP ranks");
  }

  /// The NCCL communicator of a team, which has more than one rank.
  [[nodiscard]] ncclComm_t of(const Team& team, const Split& split) const {
    return team.size == grid.world.size ? all : split.get();
  }

  Grid grid;
  ncclComm_t all;
  Split tp;  ///< null unless both teams are smaller than the world, and more than a rank
  Split dp;
};

NcclCollectives::NcclCollectives(void* nccl_comm, const Grid& grid)
    : state_(std::make_unique<State>(static_cast<ncclComm_t>(nccl_comm), grid)) {}

NcclCollectives::~NcclCollectives() = default;

void NcclCollectives::run(const Call& call) {
  if (call.epilogue.any() || call.dtype == DType::fp8_e4m3)
    throw Unsupported(
        fmt::format("{}: algorithm nccl has no epilogues; use another one, or NCCL's sum and then apply()",
                    name(call.record.op)));
  if (call.device_rows != nullptr)
    throw Unsupported("algorithm nccl needs row counts on the host; use auto, one_shot or two_shot");
  const Grid part = grid_of(state_->grid, call.team);
  if (part.tp.size > 1 && part.dp.size > 1)
    throw Unsupported(
        fmt::format("{}: NCCL has no collective that does this at once on a grid of tp {} x dp {}; call "
                    "its two parts, as algorithm nccl of a communicator does",
                    name(call.record.op), part.tp.size, part.dp.size));
  if (part.tp.size > 1) return Operation(call, state_->of(part.tp, state_->tp), part.tp.member).all_reduce();
  if (part.dp.size > 1) {
    const Operation operation(call, state_->of(part.dp, state_->dp), part.dp.member);
    return call.body == Body::gather ? operation.all_gather() : operation.reduce_scatter();
  }
  if (call.in != call.out)  // one block, and nothing to add to it
    check(cudaMemcpyAsync(call.out, call.in, call.blocks.elements() * size_of(call.dtype),
                          cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(call.stream)),
          "copying the input to the output");
}

std::unique_ptr<NcclCollectives> make_nccl_collectives(Bootstrap& bootstrap, void* nccl_comm,
                                                       const Grid& grid) {
  all_or_none(bootstrap, "looking at the NCCL communicator", [&] {
    check_fits(static_cast<ncclComm_t>(nccl_comm), grid);
    return std::string();
  });
  return std::make_unique<NcclCollectives>(nccl_comm, grid);
}

}  // namespace mixcomm::cuda
