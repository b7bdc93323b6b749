// Built with CUDA only.
#include "measure/gpu/gpu_rank.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace mixcomm::tools {
namespace {

constexpr std::byte spoiled{0xA5};

/// These two take row counts from the host alone.
bool counts_on_device(const Cell& cell, const Variant& variant) {
  return cell.rows_on_device && variant.algorithm != Algorithm::composed &&
         variant.algorithm != Algorithm::nccl;
}

}  // namespace

GpuRank::GpuRank(Bootstrap& bootstrap, Options options)
    : options_(std::move(options)),
      grid_(Grid::of(options_.grid.tp, options_.grid.dp, bootstrap.rank())),
      device_(verify::make_device(BackendKind::cuda, options_.place.device)),
      probe_(bootstrap, options_.place.device, options_.timeout),
      inputs_(options_.dtype, options_.most_bytes),
      host_(options_.most_bytes) {
  if (options_.nccl) nccl_ = std::make_unique<NcclCommunicator>(bootstrap, options_.place);
  const std::size_t bytes = std::max<std::size_t>(options_.most_bytes, 1);
  end_ = std::make_unique<End>(make_end(bootstrap, false));
  if (nccl_) try {
      windows_ = std::make_unique<End>(make_end(bootstrap, true));
    } catch (const Unsupported& error) {
      about_windows_ = fmt::format(", without windows ({})", error.what());
    }
  plain_in_ = device_->allocate(bytes);
  plain_out_ = device_->allocate(bytes);
  device_rows_ = device_->allocate(static_cast<std::size_t>(options_.grid.dp) * sizeof(std::int64_t));
  if (!options_.epilogues) return;
  plain_sums_ = device_->allocate(bytes);
  from_ = device_->allocate(bytes);
  epilogues_ =
      std::make_unique<Epilogues>(*device_, grid_, options_.hidden, options_.dtype, options_.most_bytes);
}

GpuRank::End GpuRank::make_end(Bootstrap& bootstrap, bool nccl_windows) const {
  Communicator communicator(bootstrap, {.tp = options_.grid.tp,
                                        .dp = options_.grid.dp,
                                        .timeout = options_.timeout,
                                        .workspace_bytes = options_.workspace_bytes,
                                        .backend = BackendKind::cuda,
                                        .cuda = {.device = options_.place.device,
                                                 .max_lanes = options_.max_lanes,
                                                 .nccl = nccl_ ? nccl_->get() : nullptr,
                                                 .nccl_windows = nccl_windows},
                                        .tuning = options_.tuning});
  const std::size_t bytes = std::max<std::size_t>(options_.most_bytes, 1);
  SymmetricBuffer in = communicator.allocate(bytes);
  SymmetricBuffer out = communicator.allocate(bytes);
  SymmetricBuffer sums = options_.epilogues ? communicator.allocate(bytes) : SymmetricBuffer();
  return {std::move(communicator), std::move(in), std::move(out), std::move(sums)};
}

GpuRank::Memory GpuRank::memory_of(const Cell& cell, const Variant& variant) {
  if (cell.buffers == Buffers::plain) return {plain_in_.get(), plain_out_.get(), plain_sums_.get()};
  const End& end = end_of(variant);
  return {end.in.data(), end.out.data(), end.sums.data()};
}

void GpuRank::prepare(const Cell& cell, const Variant& variant, std::uint64_t round) {
  const Memory memory = memory_of(cell, variant);
  const std::size_t row_bytes = options_.hidden * size_of(options_.dtype);
  std::fill(host_.begin(), host_.end(), spoiled);
  device_->write(memory.out, host_.data(), host_.size());
  device_->write(memory.in, inputs_.of(grid_.rank(), round), tensor_rows(cell, grid_).in * row_bytes);
  if (variant.finish == Finish::behind)
    device_->write(from_.get(), inputs_.of(grid_.rank(), round), tensor_rows(cell, grid_).in * row_bytes);
  const std::vector<std::int64_t> counts(cell.rows.begin(), cell.rows.end());
  device_->write(device_rows_.get(), reinterpret_cast<const std::byte*>(counts.data()),
                 counts.size() * sizeof(counts[0]));
  device_->synchronize();
}

void GpuRank::enqueue_separately(const Cell& cell, const Variant& variant) {
  const Memory memory = memory_of(cell, variant);
  const Tensor in{memory.in, tensor_rows(cell, grid_).in, options_.hidden, options_.dtype};
  const Tensor out{memory.out, tensor_rows(cell, grid_).out, options_.hidden, epilogues_->out_dtype(cell)};
  const bool other_dtype = out.dtype != in.dtype;
  // The residual is added to what a graph's calls all find as it was.
  const ConstTensor from{from_.get(), in.rows, in.hidden, in.dtype};
  epilogues_->run_separately(
      end_of(variant).communicator, cell,
      {from, in, {other_dtype ? memory.sums : memory.out, out.rows, out.hidden, in.dtype}, out});
}

void GpuRank::enqueue(const Cell& cell, const Variant& variant) {
  if (variant.finish == Finish::behind) return enqueue_separately(cell, variant);
  const Memory memory = memory_of(cell, variant);
  Tensor in{memory.in, tensor_rows(cell, grid_).in, options_.hidden, options_.dtype};
  Tensor out{memory.out, tensor_rows(cell, grid_).out, options_.hidden, options_.dtype};
  RowCounts rows{std::span<const std::size_t>(cell.rows)};
  if (counts_on_device(cell, variant)) {
    // A tensor of one DP rank's rows then has room for the most of any.
    const std::size_t most = *std::max_element(cell.rows.begin(), cell.rows.end());
    const OpShape shape = shape_of(cell.op);
    const bool one_block = shape.team == TeamKind::tp;
    if (one_block || shape.body == Body::gather) in.rows = most;
    if (one_block || shape.body == Body::scatter) out.rows = most;
    rows = RowCounts::on_device(reinterpret_cast<const std::int64_t*>(device_rows_.get()), most);
  }
  Epilogue epilogue;
  if (finished(cell, variant)) {
    epilogue = epilogues_->of(cell, shape_of(cell.op).body == Body::gather ? in.rows : out.rows);
    out.dtype = epilogues_->out_dtype(cell);
  }
  end_of(variant).communicator.run(cell.op, in, out, rows,
                                   {.algorithm = variant.algorithm,
                                    .stream = device_->stream(),
                                    .shape = variant.shape,
                                    .epilogue = epilogue});
}

std::string GpuRank::wrong(const Cell& cell, const Variant& variant, std::uint64_t round) {
  const std::size_t bytes = tensor_rows(cell, grid_).out * options_.hidden * size_of(options_.dtype);
  device_->read(host_.data(), memory_of(cell, variant).out, bytes);
  return finished(cell, variant) ? epilogues_->wrong(cell, inputs_, round, host_.data())
                                 : inputs_.wrong(cell, grid_, options_.hidden, round, host_.data());
}

void GpuRank::check() const {
  end_->communicator.check();
  if (windows_) windows_->communicator.check();
}

}  // namespace mixcomm::tools
