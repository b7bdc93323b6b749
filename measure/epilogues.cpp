#include "measure/epilogues.hpp"

#include <fmt/format.h>

#include <cstring>
#include <numeric>

#include "verify/numbers.hpp"

namespace mixcomm::tools {
namespace {

bool has_all_rows(Op op) {
  return op == Op::all_gather || op == Op::all_reduce_all_gather;
}

std::size_t all_rows(const Cell& cell) {
  return std::accumulate(cell.rows.begin(), cell.rows.end(), std::size_t{0});
}

constexpr Quantize quantize_of(EpilogueKind kind) {
  return kind == EpilogueKind::add_rms_norm_fp8 ? Quantize::per_128_columns : Quantize::none;
}

}  // namespace

Epilogues::Epilogues(verify::Device& device, const Grid& grid, std::size_t hidden, DType dtype,
                     std::size_t most_bytes)
    : device_(device),
      grid_(grid),
      hidden_(hidden),
      dtype_(dtype),
      weights_(hidden * size_of(dtype)),
      residual_(device.allocate(most_bytes)),
      kept_(device.allocate(most_bytes)),
      weight_(device.allocate(weights_.size())),
      scales_(device.allocate((most_bytes / size_of(dtype) / hidden + 1) *
                              scales_per_row(Quantize::per_128_columns, hidden) * sizeof(float))) {
  for (int d = 0; d < grid.dp.size; ++d) {
    std::vector<std::byte>& residual = residuals_.emplace_back(most_bytes);
    for (std::size_t i = 0; i < most_bytes / size_of(dtype); ++i) {
      const std::uint64_t h = verify::mix(i + 1000 * static_cast<std::uint64_t>(d + 1));
      verify::store(dtype, residual.data(), i,
                    verify::encode(dtype, static_cast<float>(static_cast<int>(h % 9) - 4)));
    }
  }
  for (std::size_t i = 0; i < hidden; ++i)
    verify::store(dtype, weights_.data(), i,
                  verify::encode(dtype, static_cast<float>(verify::mix(i) % 64 + 1) / 32.0F));
  device_.write(residual_.get(), residuals_[static_cast<std::size_t>(grid.dp.member)].data(), most_bytes);
  device_.write(weight_.get(), weights_.data(), weights_.size());
}

std::size_t Epilogues::own_rows(const Cell& cell) const {
  return cell.rows[static_cast<std::size_t>(grid_.dp.member)];
}

ConstTensor Epilogues::residual_of(int d, std::size_t rows) const {
  return {residuals_[static_cast<std::size_t>(d)].data(), rows, hidden_, dtype_};
}

DType Epilogues::out_dtype(const Cell& cell) const {
  return quantize_of(cell.epilogue) == Quantize::none ? dtype_ : DType::fp8_e4m3;
}

Epilogue Epilogues::of(const Cell& cell, std::size_t own_rows) const {
  if (cell.epilogue == EpilogueKind::none) return {};
  const Quantize quantize = quantize_of(cell.epilogue);
  return {.residual = {residual_.get(), own_rows, hidden_, dtype_},
          .residual_out = {kept_.get(), own_rows, hidden_, dtype_},
          .weight = {weight_.get(), 1, hidden_, dtype_},
          .quantize = quantize,
          .scales = quantize == Quantize::none ? nullptr : reinterpret_cast<float*>(scales_.get())};
}

void Epilogues::run_separately(Communicator& communicator, const Cell& cell, const Tensors& tensors) const {
  const auto& [from, in, sums, out] = tensors;
  const auto with = [&](const Epilogue& epilogue) {
    return CallOptions{.stream = device_.stream(), .epilogue = epilogue};
  };
  const Epilogue whole = of(cell, own_rows(cell));
  Epilogue behind = whole;
  const RowCounts rows{std::span<const std::size_t>(cell.rows)};
  if (has_all_rows(cell.op)) {
    if (grid_.tp.member == 0 || cell.op == Op::all_gather)  // which sums nothing over TP
      communicator.apply(from, in, with({.residual = whole.residual}));
    communicator.run(cell.op, in, sums, rows, with({}));
    const std::size_t before =
        std::accumulate(cell.rows.begin(), cell.rows.begin() + grid_.dp.member, std::size_t{0});
    const std::size_t row_bytes = hidden_ * size_of(dtype_);
    communicator.copy({.to = kept_.get(),
                       .to_pitch = row_bytes,
                       .from = static_cast<const std::byte*>(sums.data) + before * row_bytes,
                       .from_pitch = row_bytes,
                       .width = row_bytes,
                       .rows = own_rows(cell)},
                      with({}));
    behind.residual = {};
    behind.residual_out = {};
  } else {
    communicator.run(cell.op, in, sums, rows, with({}));
  }
  communicator.apply(sums, out, with(behind));
}

std::string Epilogues::wrong(const Cell& cell, const ExactInputs& inputs, std::uint64_t round,
                             const std::byte* out) const {
  const bool all_blocks = has_all_rows(cell.op);
  const std::size_t rows = all_blocks ? all_rows(cell) : own_rows(cell);
  const std::size_t row_bytes = hidden_ * size_of(dtype_);
  // What the operation makes of integers is exact; the steps by themselves are checked elsewhere.
  std::vector<std::byte> sums = inputs.results(cell, grid_, hidden_, round);
  std::size_t first = 0;
  std::size_t own = 0;
  for (int d = all_blocks ? 0 : grid_.dp.member; d < (all_blocks ? grid_.dp.size : grid_.dp.member + 1);
       ++d) {
    const std::size_t count = cell.rows[static_cast<std::size_t>(d)];
    const Tensor block{sums.data() + first * row_bytes, count, hidden_, dtype_};
    apply({.residual = residual_of(d, count)}, block, block);
    if (d == grid_.dp.member) own = first;
    first += count;
  }
  const auto differs = [&](std::string_view which, const void* got, const void* wanted, std::size_t bytes) {
    return bytes != 0 && std::memcmp(got, wanted, bytes) != 0
               ? fmt::format("rank {}: {} is not what the steps by themselves give", grid_.rank(), which)
               : std::string();
  };
  std::vector<std::byte> kept(own_rows(cell) * row_bytes);
  device_.read(kept.data(), kept_.get(), kept.size());
  std::string found = differs("residual_out", kept.data(), sums.data() + own * row_bytes, kept.size());
  const Quantize quantize = quantize_of(cell.epilogue);
  const std::size_t out_bytes = rows * hidden_ * size_of(out_dtype(cell));
  std::vector<std::byte> expected(out_bytes);
  std::vector<float> scales(rows * scales_per_row(quantize, hidden_));
  apply({.weight = {weights_.data(), 1, hidden_, dtype_},
         .quantize = quantize,
         .scales = scales.empty() ? nullptr : scales.data()},
        {sums.data(), rows, hidden_, dtype_}, {expected.data(), rows, hidden_, out_dtype(cell)});
  if (found.empty()) found = differs("out", out, expected.data(), out_bytes);
  std::vector<std::byte> got(scales.size() * sizeof(float));
  device_.read(got.data(), scales_.get(), got.size());
  if (found.empty()) found = differs("scales", got.data(), scales.data(), got.size());
  return found;
}

}  // namespace mixcomm::tools
