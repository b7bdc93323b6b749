// One rank's part in a measurement on GPUs: communicators, buffers, inputs, and the check of results.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "measure/bench_cells.hpp"
#include "measure/epilogues.hpp"
#include "measure/exact_inputs.hpp"
#include "measure/gpu/gpu_place.hpp"
#include "measure/gpu/link_probe.hpp"
#include "measure/gpu/nccl.hpp"
#include "measure/grid_size.hpp"
#include "mixcomm/mixcomm.hpp"
#include "verify/device.hpp"

namespace mixcomm::tools {

class GpuRank {
 public:
  struct Options {
    GridSize grid;
    GpuPlace place;
    std::size_t hidden = 1;
    DType dtype = DType::bf16;
    int max_lanes = 0;                ///< CudaOptions::max_lanes
    std::size_t workspace_bytes = 0;  ///< CommunicatorOptions::workspace_bytes
    std::size_t most_bytes = 0;       ///< of the largest tensor
    Milliseconds timeout = default_timeout;
    bool nccl = false;
    bool epilogues = false;               ///< some cells to come have one
    std::optional<TuningTable> tuning{};  ///< CommunicatorOptions::tuning
  };

  /// Collective. Throws what Communicator and NcclCommunicator throw.
  GpuRank(Bootstrap& bootstrap, Options options);

  /// Writes the inputs of a round and the cell's row counts, and spoils the output. Complete when it returns.
  void prepare(const Cell& cell, const Variant& variant, std::uint64_t round);

  /// Puts one call on stream().
  void enqueue(const Cell& cell, const Variant& variant);

  /// Which element of the output is not the exact result of that round, or "".
  [[nodiscard]] std::string wrong(const Cell& cell, const Variant& variant, std::uint64_t round);

  /// Throws the failure of a communicator, if there is one.
  void check() const;

  [[nodiscard]] cudaStream_t stream() const { return static_cast<cudaStream_t>(device_->stream()); }
  [[nodiscard]] int device() const { return options_.place.device; }
  [[nodiscard]] const Grid& grid() const { return grid_; }
  /// What NCCL says of itself, or "".
  [[nodiscard]] std::string about_nccl() const { return nccl_ ? nccl_->about() + about_windows_ : ""; }
  [[nodiscard]] const LinkProbe& probe() const { return probe_; }
  /// How the ranks' GPUs are joined.
  [[nodiscard]] Link link() const { return end_->communicator.link(); }
  /// Whether data may travel in lines between them.
  [[nodiscard]] bool lines() const { return end_->communicator.options().cuda.lines && link() != Link::pcie; }

 private:
  /// A communicator with symmetric memory of its own.
  struct End {
    Communicator communicator;
    SymmetricBuffer in;
    SymmetricBuffer out;
    SymmetricBuffer sums;  ///< with epilogues: for those in separate steps, where they are not `out`
  };
  struct Memory {
    std::byte* in;
    std::byte* out;
    std::byte* sums;
  };
  [[nodiscard]] End make_end(Bootstrap& bootstrap, bool nccl_windows) const;
  /// NCCL's own windows are its symmetric memory.
  [[nodiscard]] End& end_of(const Variant& variant) {
    return variant.algorithm == Algorithm::nccl && windows_ ? *windows_ : *end_;
  }
  [[nodiscard]] Memory memory_of(const Cell& cell, const Variant& variant);
  void enqueue_separately(const Cell& cell, const Variant& variant);

  Options options_;
  Grid grid_;
  std::unique_ptr<verify::Device> device_;
  LinkProbe probe_;
  std::unique_ptr<NcclCommunicator> nccl_;
  std::string about_windows_;
  std::unique_ptr<End> end_;
  std::unique_ptr<End> windows_;  ///< of NCCL, where it makes them
  std::shared_ptr<std::byte> plain_in_;
  std::shared_ptr<std::byte> plain_out_;
  std::shared_ptr<std::byte> plain_sums_;  ///< as End::sums
  std::shared_ptr<std::byte> from_;        ///< with epilogues: the input before a residual is added by itself
  std::shared_ptr<std::byte> device_rows_;  ///< of std::int64_t, one per DP rank
  ExactInputs inputs_;
  std::unique_ptr<Epilogues> epilogues_;  ///< none where no cell has one
  std::vector<std::byte> host_;           ///< of an output
};

}  // namespace mixcomm::tools
